"""Boxes: x, y, w, h in pixels of the frame. Checks of what a user gives, and the public loop's clipping (OSTrack: `map_box_back`, `clip_box`)."""

from __future__ import annotations

import math
from typing import Any

from engine.errors import BoxError
from esat_kernels.crop.geometry import Region
from esat_kernels.decode.api import CLIP_MARGIN

Box = tuple[float, float, float, float]  # x, y, w, h in pixels of the frame; x, y is the upper left corner


def check_box(box: Any, frame_width: int, frame_height: int) -> Box:
    """The box, a sequence, array or tensor, as four floats.

    BoxError unless it is finite, has an area, overlaps the frame and is at most twice as wide and high.
    """
    try:
        values = tuple(float(value) for value in (box.tolist() if hasattr(box, "tolist") else box))
    except (TypeError, ValueError, RuntimeError) as error:
        raise BoxError(f"box must be four numbers x, y, w, h, got {box!r}") from error
    except OverflowError as error:
        raise BoxError("box must be four finite numbers x, y, w, h, got an integer that no float holds") from error
    if len(values) != 4 or not all(math.isfinite(value) for value in values):
        raise BoxError(f"box must be four finite numbers x, y, w, h, got {box!r}")
    x, y, w, h = values
    if w <= 0 or h <= 0:
        raise BoxError(f"box must have a positive width and height, got {w:g} x {h:g}")
    if w * h == 0:
        raise BoxError(f"box must have an area that a float holds, got {w:g} x {h:g}")
    if min(x + w, frame_width) - max(x, 0) <= 0 or min(y + h, frame_height) - max(y, 0) <= 0:
        raise BoxError(f"box {x:g},{y:g},{w:g},{h:g} lies outside the frame of {frame_width} x {frame_height} pixels")
    if w > 2 * frame_width or h > 2 * frame_height:
        raise BoxError(f"box {x:g},{y:g},{w:g},{h:g} is more than twice the frame of {frame_width} x {frame_height} pixels")
    return x, y, w, h


def to_frame(box_in_region: Box, region_side: float, previous: Box) -> Box:
    """(cx, cy, w, h) over the region's side -> (x, y, w, h) in the frame. The region is centred on the unrounded previous box."""
    cx, cy, w, h = (value * region_side for value in box_in_region)
    left = previous[0] + 0.5 * previous[2] - 0.5 * region_side
    top = previous[1] + 0.5 * previous[3] - 0.5 * region_side
    return left + cx - 0.5 * w, top + cy - 0.5 * h, w, h


def in_region(box: Box, region: Region) -> Box:
    """x, y, w, h in the frame -> cx, cy, w, h over the region's side."""
    x, y, w, h = box
    return (x + 0.5 * w - region.left) / region.side, (y + 0.5 * h - region.top) / region.side, w / region.side, h / region.side


def clip(box: Box, frame_width: int, frame_height: int, margin: int = CLIP_MARGIN) -> Box:
    """The box with x1 in [0, W - margin], x2 in [margin, W], and sides of at least `margin`; likewise y. A frame below the margin is its own.

    NaN stays NaN: `min` and `max` return their first argument if no other one is smaller or larger.
    """
    x1, y1, w, h = box
    x2, y2 = x1 + w, y1 + h
    across, down = min(margin, frame_width), min(margin, frame_height)
    x1, x2 = min(max(x1, 0.0), frame_width - across), min(max(x2, across), frame_width)
    y1, y2 = min(max(y1, 0.0), frame_height - down), min(max(y2, down), frame_height)
    return x1, y1, max(x2 - x1, across), max(y2 - y1, down)


def overlap(a: Box, b: Box) -> float:
    """Intersection over union, 0 to 1, of two boxes that have an area."""
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(across, 0.0) * max(down, 0.0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)
