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
