"""The public call that turns the head's maps into a box."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from esat_kernels import _device, _dispatch
from esat_kernels.decode import native, reference, triton

CLIP_MARGIN = 10  # pixels of the box that always stay inside the frame, and its smallest side


class Decoded(NamedTuple):
    """One box for each item of the batch."""

    box: Tensor  # [B, 4], cx, cy, w, h over the search region's side
    score: Tensor  # [B], raw score at the chosen cell
    weighted_score: Tensor  # [B], score times window at the chosen cell
    cell: Tensor  # [B] int64, index of the chosen cell, row by row


def decode_maps(score_map: Tensor, size_map: Tensor, offset_map: Tensor, window: Tensor | None = None, backend: str = "auto") -> Decoded:
    """The box at the first maximum of score * window (public OSTrack, `cal_bbox`).

    score_map [B, 1, F, F], size_map and offset_map [B, 2, F, F], window [F, F] or None. ValueError for other shapes.
    backend: "auto" (the C++ kernel for plain float32 CPU tensors that need no gradient, else the reference), "cpu" or "reference".
    """
    _check_maps(score_map, size_map, offset_map, window)
    candidates = {
        "cpu": lambda: native.unsupported(score_map, size_map, offset_map, window),
        "reference": lambda: reference.unsupported(score_map),
    }
    chosen = _dispatch.choose("decode", backend, candidates, auto=("cpu", "reference"))
    return Decoded(*(native if chosen == "cpu" else reference).decode_maps(score_map, size_map, offset_map, window))


def advance_boxes(
    score_map: Tensor,
    size_map: Tensor,
    offset_map: Tensor,
    window: Tensor,
    regions: Tensor,
    boxes: Tensor,
    frame_size: Tensor,
    backend: str = "auto",
) -> Tensor:
    """From the head's maps to the tracker's next state, on the tensors' device: no value is read by the host, so a CUDA graph can hold the call.

    Maps and window as `decode_maps`, float32, bfloat16 or float16, computed in float32. regions: float64 [B, 3] of `crop_regions`.
    boxes: float64 [B, 4], x, y, w, h in pixels, OVERWRITTEN: the previous boxes become the decoded ones, clipped to the frame with a margin of
    10 pixels (public OSTrack: `map_box_back`, `clip_box`). frame_size: int32 [2], H and W.
    Returns the record float64 [B, 12]: box x, y, w, h, raw score, weighted score, side of the region, index of the chosen cell, and the
    box x, y, w, h before it was clipped.
    NaN in maps or regions becomes a box of NaN.
    backend: "auto", "triton" or "reference". TypeError for dtypes, ValueError for shapes and devices.
    """
    return _advance(score_map, size_map, offset_map, window, regions, boxes, frame_size, None, backend)[0]


def advance_boxes_with_features(
    score_map: Tensor,
    size_map: Tensor,
    offset_map: Tensor,
    window: Tensor,
    regions: Tensor,
    boxes: Tensor,
    frame_size: Tensor,
    features: Tensor,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """`advance_boxes`, and in the same launch what the encoder saw there: of features [B, F * F, C] (float32, bfloat16 or float16) the mean in the
    3 x 3 cells around the chosen one, cells beyond the border counting as zeros, float32 [B, C].
    """
    if features.dim() != 3 or features.shape[:2] != (score_map.shape[0], score_map.shape[2:].numel()):
        expected = f"({score_map.shape[0]}, {score_map.shape[2:].numel()}, C)"
        raise ValueError(f"advance_boxes: features must be {expected}, got {tuple(features.shape)}")
    return _advance(score_map, size_map, offset_map, window, regions, boxes, frame_size, features, backend)


def _advance(
    score_map: Tensor,
    size_map: Tensor,
    offset_map: Tensor,
    window: Tensor,
    regions: Tensor,
    boxes: Tensor,
    frame_size: Tensor,
    features: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    _check_maps(score_map, size_map, offset_map, window)
    given = (size_map, offset_map, window, *(() if features is None else (features,)))
    _check_state(score_map, regions, boxes, frame_size, given)
    candidates = {
        "triton": lambda: triton.unsupported(score_map, (*given, regions, boxes)),
        "reference": lambda: reference.unsupported(score_map),
    }
    auto = (*_device.verified_backends(score_map.device), "reference")
    kernel = triton if _dispatch.choose("advance_boxes", backend, candidates, auto) == "triton" else reference
    return kernel.advance_boxes(score_map, size_map, offset_map, window, regions, boxes, frame_size, CLIP_MARGIN, features)


def _check_maps(score_map: Tensor, size_map: Tensor, offset_map: Tensor, window: Tensor | None) -> None:
    if score_map.dim() != 4 or score_map.shape[1] != 1 or score_map.shape[2] != score_map.shape[3]:
        raise ValueError(f"decode: score_map must be [B, 1, F, F], got {tuple(score_map.shape)}")
    if score_map.shape[2] < 1:
        raise ValueError(f"decode: score_map must have a cell, got {tuple(score_map.shape)}")
    expected = (score_map.shape[0], 2, *score_map.shape[2:])
    for name, value in (("size_map", size_map), ("offset_map", offset_map)):
        if tuple(value.shape) != expected:
            raise ValueError(f"decode: {name} must be {expected}, got {tuple(value.shape)}")
    if window is not None and window.shape != score_map.shape[2:]:
        raise ValueError(f"decode: window must be {tuple(score_map.shape[2:])}, got {tuple(window.shape)}")


def _check_state(score_map: Tensor, regions: Tensor, boxes: Tensor, frame_size: Tensor, others: tuple[Tensor, ...]) -> None:
    batch = score_map.shape[0]
    for name, tensor, dtype, shape in (
        ("regions", regions, torch.float64, (batch, 3)),
        ("boxes", boxes, torch.float64, (batch, 4)),
        ("frame_size", frame_size, torch.int32, (2,)),
    ):
        if tensor.dtype != dtype:
            raise TypeError(f"advance_boxes: {name} must be {str(dtype).removeprefix('torch.')}, got {tensor.dtype}")
        if tuple(tensor.shape) != shape:
            raise ValueError(f"advance_boxes: {name} must be {shape}, got {tuple(tensor.shape)}")
    for tensor in (score_map, *others):
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise TypeError(f"advance_boxes: maps, window and features must be float32, bfloat16 or float16, got {tensor.dtype}")
    for tensor in (*others, regions, boxes, frame_size):
        if tensor.device != score_map.device:
            raise ValueError(f"advance_boxes: all tensors must be on {score_map.device} like the score map, got {tensor.device}")
