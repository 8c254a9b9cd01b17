"""The crop by the compiled CPU kernel: reads the pixels that the output needs, with memory that does not depend on the region's size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esat_kernels import _native
from esat_kernels.crop.geometry import LARGEST_SIDE, Region
from esat_kernels.crop.nv12 import MATRICES, Matrix, Nv12

LARGEST_WIDTH = 2**29 - 1  # of a frame, in pixels of up to 4 bytes: offsets within a row are 32-bit
NO_MATRIX = Matrix(0, 0, 0, 0, 0)  # of frames that have three channels already


def unsupported(width: int, region: Region, size: int, out: Tensor | None = None) -> str | None:
    """Why this kernel cannot make this crop of a frame that is `width` pixels wide, or None."""
    reason = _native.unavailable()
    if reason is None and size > _native.library().max_crop_size:
        reason = f"size must be at most {_native.library().max_crop_size}, got {size}"
    if reason is None and width > LARGEST_WIDTH:
        reason = f"the frame's width must be at most {LARGEST_WIDTH}, got {width}"
    if reason is None and region.side > LARGEST_SIDE:
        reason = f"the region's side must be at most {LARGEST_SIDE}, got {region.side}"
    if reason is None and out is not None:
        reason = _native.unsupported_tensors(out)
    return reason


def _source(frame: NDArray[np.uint8] | Nv12, region: Region, size: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The frame in a layout that the kernel reads (a copy only if its rows or pixels are not in ascending order), and the arguments."""
    height, width = frame.shape[:2]
    if isinstance(frame, Nv12):
        luma, chroma = (np.asarray(plane) for plane in (frame.luma, frame.chroma))
        if luma.strides[1] != 1 or luma.strides[0] < width:
            luma = np.ascontiguousarray(luma)
        if chroma.strides[1:] != (2, 1) or chroma.strides[0] < 2 * chroma.shape[1]:
            chroma = np.ascontiguousarray(chroma)
        held: tuple[Any, ...] = (luma, chroma)
        row_stride, pixel_stride = luma.strides[0], 1
        planes = (chroma.ctypes.data, chroma.strides[0], MATRICES[frame.matrix])
    else:
        row_stride, pixel_stride, channel_stride = frame.strides
        if channel_stride != 1 or pixel_stride not in (3, 4) or row_stride < width * pixel_stride:
            frame = np.ascontiguousarray(frame)
            row_stride, pixel_stride = 3 * width, 3
        held, planes = (frame,), (0, 0, NO_MATRIX)
    left = min(max(region.left, -region.side), width)  # beyond these the region is black anyway
    top = min(max(region.top, -region.side), height)
    return held, (held[0].ctypes.data, height, width, row_stride, pixel_stride, *planes, left, top, region.side, size)


def crop_resize(frame: NDArray[np.uint8] | Nv12, region: Region, size: int) -> NDArray[np.uint8]:
    """As the reference, bit for bit: uint8 [size, size, 3]."""
    _held, arguments = _source(frame, region, size)
    out = np.empty((size, size, 3), np.uint8)
    _native.library().crop_image(*arguments, out.ctypes.data)
    return out


def crop_patches(
    frame: NDArray[np.uint8] | Nv12,
    region: Region,
    size: int,
    patch: int,
    out: Tensor,
    reverse: bool,
    scale: Sequence[float],
    bias: Sequence[float],
) -> None:
    """As the reference, with one rounding in pixel * scale + bias, straight into `out`."""
    _held, arguments = _source(frame, region, size)
    _native.library().crop_patches(*arguments, out.data_ptr(), out.stride(0), out.dtype == torch.bfloat16, reverse, scale, bias)
