"""Crops as the network reads them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.boxes import Box, in_region
from engine.config import ModelConfig
from esat_kernels.crop.geometry import IMAGENET_MEAN, IMAGENET_STD, region_around


def normalise(crops: Sequence[NDArray[np.uint8]], bgr: bool, device: torch.device) -> Tensor:
    """Crops uint8 [S, S, 3] -> float32 [B, 3, S, S] on `device`, RGB, ImageNet mean and standard deviation removed."""
    batch = torch.from_numpy(np.stack(crops)).to(device)
    return standardise(batch.flip(-1) if bgr else batch)


def template_box(box: Box, config: ModelConfig, target: Box | None = None) -> Tensor:
    """The target in the template around `box`, as the network reads it: float32 [1, 4], cx, cy, w, h over the template's side. `target`: where
    it is not `box` itself."""
    seen = in_region(box, region_around(box, config.template_factor)) if target is None else target
    return torch.tensor([seen], dtype=torch.float32, device="cpu")


def images(rows: Tensor, patch: int) -> Tensor:
    """Rows of patches [B, (S / patch)^2, 3 patch^2], each (channel, y, x), as images [B, 3, S, S]."""
    grid = math.isqrt(rows.shape[1])
    return rows.view(-1, grid, grid, 3, patch, patch).permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, grid * patch, grid * patch)


def standardise(batch: Tensor) -> Tensor:
    """RGB uint8 [B, S, S, 3] -> float32 [B, 3, S, S], ImageNet mean and standard deviation removed."""
    values = batch.permute(0, 3, 1, 2).float() / 255
    mean, deviation = (values.new_tensor(numbers).view(1, 3, 1, 1) for numbers in (IMAGENET_MEAN, IMAGENET_STD))
    return (values - mean) / deviation
