"""Frames as a user may pass them in."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import FrameError


def check_frame(frame: Any) -> NDArray[np.uint8]:
    """The frame, a NumPy array or a PyTorch tensor, as an array uint8 [H, W, 3]; of grey frames three equal channels, without a fourth (alpha).

    Nothing is copied of an array or of a tensor in the CPU's memory, whatever its strides, but for grey frames. A tensor on another device is
    copied to the host, which waits for the work that makes it. FrameError for anything else: other dtypes are refused, since only the caller
    knows their range, and so is [C, H, W].
    """
    tensor = isinstance(frame, Tensor)
    if not (tensor or isinstance(frame, np.ndarray)):
        raise FrameError(f"frame must be a NumPy array or PyTorch tensor uint8 [H, W, 3], got {type(frame).__name__}")
    if frame.dtype not in (np.uint8, torch.uint8):
        raise FrameError(
            f"frame must be uint8 with values 0 to 255, got {frame.dtype}: convert it first (16-bit: frame >> 8; [0, 1] floats: 255 * frame)"
        )
    shape = tuple(frame.shape)
    if len(shape) == 3 and shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4):
        turned = "frame.permute(1, 2, 0)" if tensor else "frame.transpose(1, 2, 0)"
        raise FrameError(f"frame must be [H, W, 3], got {shape}, which looks like [C, H, W]: pass {turned}")
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))) or 0 in shape:
        raise FrameError(f"frame must be [H, W, 3], [H, W] or [H, W, 4] with H, W > 0, got {shape}")
    image: NDArray[np.uint8] = frame.detach().cpu().numpy() if tensor else frame
    if image.ndim == 2:
        image = image[:, :, None]
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    return image[:, :, :3]
