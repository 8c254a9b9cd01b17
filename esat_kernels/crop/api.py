"""The public call that cuts a square region around a box out of a frame."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from esat_kernels.crop import reference


def crop_resize(
    frame: NDArray[np.uint8], box: tuple[float, float, float, float], factor: float, size: int
) -> tuple[NDArray[np.uint8], float]:
    """The region of side ceil(sqrt(w h) * factor) around the box's centre, black outside the frame, resized bilinearly.

    frame uint8 [H, W, 3]; box (x, y, w, h) in pixels, finite, with an area -> crop uint8 [size, size, 3] and the resize factor (output
    pixels per frame pixel). Channels keep their order. TypeError for another dtype, ValueError for shapes and boxes.
    """
    if frame.dtype != np.uint8:
        raise TypeError(f"crop: frame must be uint8, got {frame.dtype}")
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
        raise ValueError(f"crop: frame must be [H, W, 3], got {frame.shape}")
    if len(box) != 4 or not all(math.isfinite(value) for value in box) or box[2] <= 0 or box[3] <= 0:
        raise ValueError(f"crop: box must be (x, y, w, h), finite, with w, h > 0, got {tuple(box)}")
    return reference.crop_resize(frame, box, factor, size)
