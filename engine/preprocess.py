"""From what a user passes in to what the network reads: frames, boxes, crops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import BoxError, FrameError

Box = tuple[float, float, float, float]  # x, y, w, h in pixels of the frame; x, y is the upper left corner

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, of values in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)


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


def check_box(box: Any, frame_width: int, frame_height: int) -> Box:
    """The box as four floats. BoxError unless it is finite, has an area, overlaps the frame and is at most twice as wide and high."""
    try:
        values = tuple(float(value) for value in box)
    except (TypeError, ValueError) as error:
        raise BoxError(f"box must be four numbers x, y, w, h, got {box!r}") from error
    if len(values) != 4 or not all(math.isfinite(value) for value in values):
        raise BoxError(f"box must be four finite numbers x, y, w, h, got {box!r}")
    x, y, w, h = values
    if w <= 0 or h <= 0:
        raise BoxError(f"box must have a positive width and height, got {w:g} x {h:g}")
    if min(x + w, frame_width) - max(x, 0) <= 0 or min(y + h, frame_height) - max(y, 0) <= 0:
        raise BoxError(f"box {x:g},{y:g},{w:g},{h:g} lies outside the frame of {frame_width} x {frame_height} pixels")
    if w > 2 * frame_width or h > 2 * frame_height:
        raise BoxError(f"box {x:g},{y:g},{w:g},{h:g} is more than twice the frame of {frame_width} x {frame_height} pixels")
    return x, y, w, h


def normalise(crops: Sequence[NDArray[np.uint8]], bgr: bool, device: torch.device) -> Tensor:
    """Crops uint8 [S, S, 3] -> float32 [B, 3, S, S] on `device`, RGB, ImageNet mean and standard deviation removed."""
    batch = torch.from_numpy(np.stack(crops)).to(device)
    batch = batch.permute(0, 3, 1, 2).float() / 255
    if bgr:
        batch = batch.flip(1)
    mean = torch.tensor(IMAGENET_MEAN, device=device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=device).view(1, 3, 1, 1)
    return (batch - mean) / std
