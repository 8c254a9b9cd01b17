"""The box at the best cell of the score map, in plain PyTorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def unsupported(score_map: Tensor) -> str | None:
    """The reference runs wherever PyTorch does."""
    return None


def decode_maps(score_map: Tensor, size_map: Tensor, offset_map: Tensor, window: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """score [B, 1, F, F], size and offset [B, 2, F, F], window [F, F] or None
    -> box [B, 4] (cx, cy, w, h over the region's side), raw score at that cell [B], weighted score [B], cell index [B] int64.

    The cell is the first maximum of score * window: ties go to the lower index.
    """
    batch, _, side, _ = score_map.shape
    raw = score_map.reshape(batch, -1)
    weighted = raw if window is None else raw * window.to(raw).reshape(1, -1)
    best, index = weighted.max(dim=1)
    # torch.max promises no order among equal values: take the first cell that reaches the maximum.
    index = (weighted == best.unsqueeze(1)).to(torch.uint8).argmax(dim=1)
    at = index.view(batch, 1, 1).expand(-1, 2, 1)
    size = size_map.reshape(batch, 2, -1).gather(2, at).squeeze(2)
    offset = offset_map.reshape(batch, 2, -1).gather(2, at).squeeze(2)
    cell = torch.stack([index % side, torch.div(index, side, rounding_mode="floor")], dim=1).to(offset.dtype)
    # Not by a number: on CUDA that is a product with its rounded reciprocal.
    box = torch.cat([(cell + offset) / offset.new_full((), side), size], dim=1)
    return box, raw.gather(1, index.unsqueeze(1)).squeeze(1), best, index


def advance_boxes(
    score_map: Tensor,
    size_map: Tensor,
    offset_map: Tensor,
    window: Tensor,
    regions: Tensor,
    boxes: Tensor,
    frame_size: Tensor,
    margin: int,
    features: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The decoded box in the frame, clipped (public OSTrack: `map_box_back`, `clip_box`), in float64 and into `boxes`; the record [B, 12], and
    the mean of the features around the chosen cell, float32 [B, C] (without features [B, 0]).
    """
    decoded, score, weighted, cell = decode_maps(score_map.float(), size_map.float(), offset_map.float(), window.float())
    side = regions[:, 2]
    cx, cy, w, h = (decoded.double() * side[:, None]).unbind(1)
    height, width = frame_size.double().unbind()
    # The region is centred on the unrounded previous box.
    left = boxes[:, 0] + 0.5 * boxes[:, 2] - 0.5 * side + cx - 0.5 * w
    top = boxes[:, 1] + 0.5 * boxes[:, 3] - 0.5 * side + cy - 0.5 * h
    (x, inner_w), (y, inner_h) = _clip(left, w, width, margin), _clip(top, h, height, margin)
    record = torch.stack([x, y, inner_w, inner_h, score.double(), weighted.double(), side, cell.double(), left, top, w, h], dim=1)
    boxes.copy_(record[:, :4])
    return record, boxes.new_zeros(len(boxes), 0, dtype=torch.float32) if features is None else surroundings(features, cell)


def surroundings(features: Tensor, cell: Tensor) -> Tensor:
    """The mean of the features [B, F * F, C] in the 3 x 3 cells around the cell [B], zeros beyond the border: float32 [B, C]."""
    side = math.isqrt(features.shape[1])
    total = features.new_zeros((), dtype=torch.float32)
    for step in range(9):
        row, column = cell // side + step // 3 - 1, cell % side + step % 3 - 1
        inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
        at = torch.where(inside, row * side + column, 0).view(-1, 1, 1).expand(-1, 1, features.shape[2])
        total = total + torch.where(inside[:, None], features.gather(1, at).squeeze(1).float(), 0.0) * (1 / 9)
    return total


def _clip(start: Tensor, extent: Tensor, length: Tensor, margin: int) -> tuple[Tensor, Tensor]:
    """One axis of a box: its start in [0, length - margin], its end in [margin, length], its extent at least `margin`. NaN stays NaN.

    A length below the margin is its own margin.
    """
    least = length.clamp(max=margin)
    end = (start + extent).maximum(least).minimum(length)
    start = start.clamp(min=0).minimum(length - least)
    return start, (end - start).maximum(least)
