"""Frames as a user may pass them in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import FrameError


def check_frame(frame: Any) -> NDArray[np.uint8]:
    """The frame as uint8 [H, W, 3]; grey frames become three equal channels, a fourth channel (alpha) is dropped.

    FrameError for anything else: other dtypes are refused, since only the caller knows their range.
    """
    if isinstance(frame, Tensor):
        frame = frame.cpu().numpy()
    if not isinstance(frame, np.ndarray):
        raise FrameError(f"frame must be a NumPy array uint8 [H, W, 3], got {type(frame).__name__}")
    if frame.dtype != np.uint8:
        raise FrameError(
            f"frame must be uint8 with values 0 to 255, got {frame.dtype}: convert it first (16-bit: frame >> 8; [0, 1] floats: 255 * frame)"
        )
    if frame.ndim == 2:
        frame = frame[:, :, None]
    if frame.ndim != 3 or frame.shape[2] not in (1, 3, 4) or frame.size == 0:
        raise FrameError(f"frame must be [H, W, 3], [H, W] or [H, W, 4] with H, W > 0, got {frame.shape}")
    if frame.shape[2] == 1:
        frame = np.repeat(frame, 3, axis=2)
    return frame[:, :, :3]
