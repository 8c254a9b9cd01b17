"""The public OSTrack crop (`sample_target`) with OpenCV: pad with black, cut, resize bilinearly on uint8."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray


def unsupported() -> str | None:
    """OpenCV is a dependency of the package: the reference always runs."""
    return None


def crop_resize(
    frame: NDArray[np.uint8], box: tuple[float, float, float, float], factor: float, size: int
) -> tuple[NDArray[np.uint8], float]:
    """frame uint8 [H, W, 3], box (x, y, w, h) -> crop uint8 [size, size, 3] and the resize factor (output pixels per frame pixel).

    Whenever the region reaches the right or lower border, the last real column or row is black too: the public code pads one pixel too
    many, and its published weights were made so.
    """
    x, y, w, h = box
    height, width = frame.shape[:2]
    side = math.ceil(math.sqrt(w * h) * factor)
    if side < 1:
        raise ValueError(f"crop: the box must have an area, got width {w} and height {h}")
    x1 = round(x + 0.5 * w - side * 0.5)  # Python rounds half to even, as the public code does
    y1 = round(y + 0.5 * h - side * 0.5)
    x2, y2 = x1 + side, y1 + side
    left, right = max(0, -x1), max(x2 - width + 1, 0)
    top, bottom = max(0, -y1), max(y2 - height + 1, 0)
    region = np.zeros((side, side, 3), np.uint8)
    inner = frame[y1 + top : max(y2 - bottom, 0), x1 + left : max(x2 - right, 0)]  # empty when the region lies beside the frame
    if inner.size:
        region[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    resized = cv2.resize(region, (size, size), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8), size / side
