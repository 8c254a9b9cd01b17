"""Frames of two planes that the crops' tests share."""

from __future__ import annotations

import numpy as np
import torch

from esat_kernels import Nv12


def nv12_of(height: int, width: int, matrix: str = "bt709", seed: int = 0) -> Nv12:
    """Noise over all bytes, with those beyond the limited range."""
    generator = np.random.default_rng(seed)
    luma = generator.integers(0, 256, (height, width), np.uint8)
    return Nv12(luma, generator.integers(0, 256, (-(-height // 2), -(-width // 2), 2), np.uint8), matrix)


def buffer_of(frame: Nv12) -> torch.Tensor:
    """The planes one behind the other, and bytes behind them that no crop may read."""
    return torch.cat(
        [torch.from_numpy(plane).flatten() for plane in (frame.luma, frame.chroma)] + [torch.full((100,), 255, dtype=torch.uint8)]
    )
