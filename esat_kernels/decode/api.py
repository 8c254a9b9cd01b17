"""The public call that turns the head's maps into a box."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from esat_kernels import _dispatch
from esat_kernels.decode import native, reference


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
    if score_map.dim() != 4 or score_map.shape[1] != 1 or score_map.shape[2] != score_map.shape[3]:
        raise ValueError(f"decode: score_map must be [B, 1, F, F], got {tuple(score_map.shape)}")
    expected = (score_map.shape[0], 2, *score_map.shape[2:])
    for name, value in (("size_map", size_map), ("offset_map", offset_map)):
        if tuple(value.shape) != expected:
            raise ValueError(f"decode: {name} must be {expected}, got {tuple(value.shape)}")
    if window is not None and window.shape != score_map.shape[2:]:
        raise ValueError(f"decode: window must be {tuple(score_map.shape[2:])}, got {tuple(window.shape)}")
    candidates = {
        "cpu": lambda: native.unsupported(score_map, size_map, offset_map, window),
        "reference": lambda: reference.unsupported(score_map),
    }
    chosen = _dispatch.choose("decode", backend, candidates, auto=("cpu", "reference"))
    return Decoded(*(native if chosen == "cpu" else reference).decode_maps(score_map, size_map, offset_map, window))
