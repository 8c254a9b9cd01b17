"""Where the square region around a box lies, the same for every backend."""

from __future__ import annotations

import math
from typing import NamedTuple

LARGEST_SIDE = 2**40  # of a region that a kernel takes: positions in it are 64-bit integers and doubles

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, of values in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)


class Region(NamedTuple):
    """A square of frame pixels, which may reach beyond the frame."""

    left: int
    top: int
    side: int


def region_around(box: tuple[float, float, float, float], factor: float) -> Region:
    """The square of side ceil(sqrt(w h) * factor) around the centre of box (x, y, w, h) (public OSTrack, `sample_target`).

    ValueError if the side is zero or not finite.
    """
    x, y, w, h = box
    length = math.sqrt(w * h) * factor
    side = math.ceil(length) if math.isfinite(length) else 0
    if side < 1:
        raise ValueError(f"crop: the box must have a finite area, got width {w} and height {h}, factor {factor}")
    return Region(round(x + 0.5 * w - side * 0.5), round(y + 0.5 * h - side * 0.5), side)  # half to even, as the public code does
