"""From the network's box in the search region to the frame (public OSTrack: `map_box_back`, `clip_box`)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.preprocess import Box
from esat_kernels.decode.api import CLIP_MARGIN


def hann_window(side: int) -> Tensor:
    """The outer product of two Hann windows without zero ends, 0.5 (1 - cos(2 pi k / (side + 1))), k = 1..side: float32 [side, side]."""
    k = torch.arange(1, side + 1, dtype=torch.float64)
    window = 0.5 * (1 - torch.cos(2 * math.pi * k / (side + 1)))
    return torch.outer(window, window).float()


class Surroundings:
    """The mean of an encoder's features in the 3 x 3 cells around one cell of a map F x F; cells beyond the border count as zeros."""

    def __init__(self, side: int, device: torch.device):
        cell = torch.arange(side * side).view(-1, 1)
        step = torch.arange(9)
        row, column = cell // side + step // 3 - 1, cell % side + step % 3 - 1
        inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
        self._cells = torch.where(inside, row * side + column, 0).to(device)  # [F * F, 9]
        self._weights = (inside.float() / 9).unsqueeze(2).to(device)  # [F * F, 9, 1]

    def __call__(self, features: Tensor, cell: Tensor) -> Tensor:
        """features [B, F * F, C], cell int64 [B] (row by row) -> float32 [B, C]. Nothing is read by the host."""
        cells = self._cells[cell].unsqueeze(2).expand(-1, -1, features.shape[2])
        return (features.gather(1, cells).float() * self._weights[cell]).sum(dim=1)


def to_frame(box_in_region: Box, region_side: float, previous: Box) -> Box:
    """(cx, cy, w, h) over the region's side -> (x, y, w, h) in the frame. The region is centred on the unrounded previous box."""
    cx, cy, w, h = (value * region_side for value in box_in_region)
    left = previous[0] + 0.5 * previous[2] - 0.5 * region_side
    top = previous[1] + 0.5 * previous[3] - 0.5 * region_side
    return left + cx - 0.5 * w, top + cy - 0.5 * h, w, h


def clip(box: Box, frame_width: int, frame_height: int, margin: int = CLIP_MARGIN) -> Box:
    """The box with x1 in [0, W - margin], x2 in [margin, W], and sides of at least `margin`; likewise y. A frame below the margin is its own."""
    x1, y1, w, h = box
    x2, y2 = x1 + w, y1 + h
    across, down = min(margin, frame_width), min(margin, frame_height)
    x1, x2 = min(max(0.0, x1), frame_width - across), min(max(across, x2), frame_width)
    y1, y2 = min(max(0.0, y1), frame_height - down), min(max(down, y2), frame_height)
    return x1, y1, max(across, x2 - x1), max(down, y2 - y1)
