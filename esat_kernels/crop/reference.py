"""The public OSTrack crop (`sample_target`) with OpenCV: pad with black, cut, resize bilinearly on uint8."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esat_kernels.crop.geometry import Region
from esat_kernels.crop.nv12 import Nv12


def unsupported() -> str | None:
    """OpenCV is a dependency of the package: the reference always runs."""
    return None


def crop_resize(frame: NDArray[np.uint8] | Nv12, region: Region, size: int) -> NDArray[np.uint8]:
    """frame uint8 [H, W, 3] -> the region, resized: uint8 [size, size, 3]; of `Nv12`, RGB.

    Whenever the region reaches the right or lower border, the last real column or row is black too: the public code pads one pixel too
    many, and its published weights were made so.
    """
    x1, y1, side = region
    if isinstance(frame, Nv12):
        frame = frame.rgb()
    height, width = frame.shape[:2]
    x2, y2 = x1 + side, y1 + side
    left, right = max(0, -x1), max(x2 - width + 1, 0)
    top, bottom = max(0, -y1), max(y2 - height + 1, 0)
    padded = np.zeros((side, side, 3), np.uint8)
    inner = frame[y1 + top : max(y2 - bottom, 0), x1 + left : max(x2 - right, 0)]  # empty when the region lies beside the frame
    if inner.size:
        padded[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return np.asarray(cv2.resize(padded, (size, size), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def crop_patches(
    frame: NDArray[np.uint8] | Nv12,
    region: Region,
    size: int,
    patch: int,
    out: Tensor,
    reverse: bool,
    scale: Sequence[float],
    bias: Sequence[float],
) -> None:
    """The resized region as rows of patches, pixel * scale + bias for each channel, into out [(size / patch)^2, 3 patch^2]."""
    crop = torch.from_numpy(crop_resize(frame, region, size)).float()
    if reverse:
        crop = crop.flip(2)
    factors, offsets = (crop.new_tensor(values) for values in (scale, bias))
    crop = crop * factors + offsets
    grid = size // patch
    rows = crop.view(grid, patch, grid, patch, 3).permute(0, 2, 4, 1, 3)
    out.copy_(rows.reshape(grid * grid, 3 * patch * patch))
