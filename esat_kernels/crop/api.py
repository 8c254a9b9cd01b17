"""The public calls that cut a square region around a box out of a frame."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esat_kernels import _device, _dispatch
from esat_kernels.crop import native, reference, reference_regions, triton
from esat_kernels.crop.geometry import IMAGENET_MEAN, IMAGENET_STD, Region, region_around
from esat_kernels.crop.nv12 import MATRICES, Nv12

PATCH = 16  # pixels a side
_SCALE = tuple(1 / (255 * deviation) for deviation in IMAGENET_STD)
_BIAS = tuple(-mean / deviation for mean, deviation in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True))
_AUTO = ("cpu", "reference")


def crop_resize(
    frame: NDArray[np.uint8] | Nv12, box: tuple[float, float, float, float], factor: float, size: int, backend: str = "auto"
) -> tuple[NDArray[np.uint8], float]:
    """The region of side ceil(sqrt(w h) * factor) around the box's centre, black outside the frame, resized bilinearly.

    frame uint8 [H, W, 3] or `Nv12` of arrays; box (x, y, w, h) in pixels, finite, with an area -> crop uint8 [size, size, 3] and the resize
    factor (output pixels per frame pixel). Channels keep their order; the pixels of `Nv12` become RGB first.
    backend: "auto", "cpu" (C++) or "reference" (OpenCV), which give the same bits.
    TypeError for another dtype, ValueError for shapes and boxes.
    """
    region = _checked_region(frame, box, factor, size)
    candidates = {"cpu": lambda: native.unsupported(frame.shape[1], region, size), "reference": reference.unsupported}
    chosen = _dispatch.choose("crop", backend, candidates, _AUTO)
    return (native if chosen == "cpu" else reference).crop_resize(frame, region, size), size / region.side


def crop_patches(
    frame: NDArray[np.uint8] | Nv12,
    box: tuple[float, float, float, float],
    factor: float,
    size: int,
    out: Tensor,
    bgr: bool = True,
    normalise: bool = True,
    backend: str = "auto",
) -> float:
    """The crop of `crop_resize` as the rows that a 16 x 16 patch embedding multiplies with its weight, written into `out`.

    out: float32 or bfloat16 [(size / 16)^2, 768], on the CPU, rows adjacent in themselves. A row holds one patch in the order (channel RGB,
    y, x) of a Conv2d weight. bgr: the frame's channel order, of no meaning for `Nv12`. normalise: divided by 255, ImageNet's mean and
    deviation removed; otherwise 0 to 255, exact in both dtypes, for weights that have the normalisation folded in.
    Returns the resize factor. Errors as `crop_resize`; ValueError and TypeError for another `out`.
    """
    region = _checked_region(frame, box, factor, size)
    if size % PATCH:
        raise ValueError(f"crop: size must be a multiple of {PATCH}, got {size}")
    expected = ((size // PATCH) ** 2, 3 * PATCH * PATCH)
    if tuple(out.shape) != expected or out.stride(1) != 1 or out.stride(0) < expected[1]:
        raise ValueError(f"crop: out must be {expected} with rows adjacent in themselves, got {tuple(out.shape)}, strides {out.stride()}")
    if out.dtype not in (torch.float32, torch.bfloat16):
        raise TypeError(f"crop: out must be float32 or bfloat16, got {out.dtype}")
    if out.device.type != "cpu":
        raise ValueError(f"crop: out must be on the CPU, got {out.device}")
    scale, bias = (_SCALE, _BIAS) if normalise else ((1.0,) * 3, (0.0,) * 3)
    candidates = {"cpu": lambda: native.unsupported(frame.shape[1], region, size, out), "reference": reference.unsupported}
    chosen = _dispatch.choose("crop", backend, candidates, _AUTO)
    (native if chosen == "cpu" else reference).crop_patches(
        frame, region, size, PATCH, out, bgr and not isinstance(frame, Nv12), scale, bias
    )
    return size / region.side


def crop_regions(
    frame: Tensor,
    frame_size: Tensor,
    boxes: Tensor,
    factor: float,
    size: int,
    out: Tensor,
    bgr: bool = True,
    backend: str = "auto",
    matrix: str | None = None,
) -> Tensor:
    """`crop_patches` of several boxes in one frame, on the tensors' device: no value is read by the host, so a CUDA graph can hold the call.

    frame: uint8, one-dimensional, a buffer of at least 3 H W bytes: rows of W pixels, three adjacent channels each. Where `matrix` is named
    ("bt601", "bt709") it holds the planes of `Nv12`: luma [H, W], and behind it chroma [ceil(H / 2), ceil(W / 2), 2]; `bgr` has no meaning then.
    frame_size: int32 [2], H and W on the device, so that one graph serves every frame size. boxes: float64 [B, 4], x, y, w, h in pixels.
    out: float32, bfloat16 or float16 [B, (size / 16)^2, 768], rows adjacent in themselves; written as `crop_patches` does, normalised.
    Returns the regions, float64 [B, 3]: left, top, side in frame pixels (whole numbers).
    The pixels are OpenCV's, bit for bit. A box that is not finite or has no area gives a black crop and a region of NaN.
    backend: "auto", "triton" or "reference". TypeError for dtypes, ValueError for shapes, devices and numbers.
    """
    _check_regions(frame, frame_size, boxes, out)
    _check_numbers(factor, size)
    if matrix not in (None, *MATRICES):
        raise ValueError(f"crop: matrix must be None, {' or '.join(MATRICES)}, got {matrix!r}")
    expected = (boxes.shape[0], (size // PATCH) ** 2, 3 * PATCH * PATCH)
    if size % PATCH:
        raise ValueError(f"crop: size must be a multiple of {PATCH}, got {size}")
    if tuple(out.shape) != expected or out.stride(2) != 1 or out.stride(1) < expected[2]:
        raise ValueError(f"crop: out must be {expected} with rows adjacent in themselves, got {tuple(out.shape)}, strides {out.stride()}")
    candidates = {"triton": lambda: triton.unsupported(frame, boxes, out), "reference": reference_regions.unsupported}
    chosen = _dispatch.choose("crop", backend, candidates, auto=(*_device.verified_backends(frame.device), "reference"))
    kernel = triton if chosen == "triton" else reference_regions
    return kernel.crop_regions(frame, frame_size, boxes, factor, size, PATCH, out, bgr and matrix is None, _SCALE, _BIAS, matrix)


def _check_regions(frame: Tensor, frame_size: Tensor, boxes: Tensor, out: Tensor) -> None:
    for name, tensor, dtype, dims in (
        ("frame", frame, torch.uint8, 1),
        ("frame_size", frame_size, torch.int32, 1),
        ("boxes", boxes, torch.float64, 2),
    ):
        if tensor.dtype != dtype:
            raise TypeError(f"crop: {name} must be {str(dtype).removeprefix('torch.')}, got {tensor.dtype}")
        if tensor.dim() != dims:
            raise ValueError(f"crop: {name} must have {dims} dimension{'s' if dims > 1 else ''}, got {tuple(tensor.shape)}")
    if frame.numel() < 3 or frame.stride(0) != 1:
        raise ValueError(f"crop: frame must be a buffer of adjacent pixels, got {tuple(frame.shape)}, strides {frame.stride()}")
    if frame_size.shape[0] != 2:
        raise ValueError(f"crop: frame_size must be [2], height and width, got {tuple(frame_size.shape)}")
    if boxes.shape[0] < 1 or boxes.shape[1] != 4:
        raise ValueError(f"crop: boxes must be [B, 4], got {tuple(boxes.shape)}")
    if out.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise TypeError(f"crop: out must be float32, bfloat16 or float16, got {out.dtype}")
    for name, tensor in (("frame_size", frame_size), ("boxes", boxes), ("out", out)):
        if tensor.device != frame.device:
            raise ValueError(f"crop: {name} must be on {frame.device} like the frame, got {tensor.device}")


def _check_numbers(factor: float, size: int) -> None:
    if size < 1:
        raise ValueError(f"crop: size must be positive, got {size}")
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(f"crop: factor must be a positive number, got {factor}")


def _checked_region(frame: NDArray[np.uint8] | Nv12, box: tuple[float, float, float, float], factor: float, size: int) -> Region:
    if isinstance(frame, Nv12):
        problem = frame.problem()
        if problem is None and not isinstance(frame.luma, np.ndarray):
            problem = "the planes of an Nv12 frame must be NumPy arrays here"
        if problem is not None:
            raise ValueError(f"crop: {problem}")
    elif frame.dtype != np.uint8:
        raise TypeError(f"crop: frame must be uint8, got {frame.dtype}")
    elif frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
        raise ValueError(f"crop: frame must be [H, W, 3], got {frame.shape}")
    if len(box) != 4 or not all(math.isfinite(value) for value in box) or box[2] <= 0 or box[3] <= 0:
        raise ValueError(f"crop: box must be (x, y, w, h), finite, with w, h > 0, got {tuple(box)}")
    _check_numbers(factor, size)
    return region_around(box, factor)
