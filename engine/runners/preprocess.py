"""Crops as the network reads them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, of values in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(crops: Sequence[NDArray[np.uint8]], bgr: bool, device: torch.device) -> Tensor:
    """Crops uint8 [S, S, 3] -> float32 [B, 3, S, S] on `device`, RGB, ImageNet mean and standard deviation removed."""
    batch = torch.from_numpy(np.stack(crops)).to(device)
    batch = batch.permute(0, 3, 1, 2).float() / 255
    if bgr:
        batch = batch.flip(1)
    mean = torch.tensor(IMAGENET_MEAN, device=device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=device).view(1, 3, 1, 1)
    return (batch - mean) / std
