"""Small networks and moving pictures that the engine's tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from conformance import golden
from engine.runners.gpu.runner import GpuRunner
from engine.runners.gpu.streams import Streams
from engine.weights.io import Weights
from esat_kernels import Nv12
from tests.networks import TINY

SMALL = TINY.replace(
    name="small", dim=64, depth=4, head_channels=16, template_size=48, search_size=96, elimination_layers=(1, 2), token_types=True
)


def weights(**changes) -> Weights:
    return golden.draw_weights(SMALL.replace(**changes), 3, 2.0, Path("test"))


def runner(dtype: str = "fp32", streams: Streams | None = None, **changes) -> GpuRunner:
    """The engine on the CPU with the reference kernels."""
    return GpuRunner(weights(**changes), "cpu", dtype, "reference", streams)


def nv12(picture: np.ndarray) -> Nv12:
    """A picture's bytes as the planes of a frame: its first channel is the luma, the others are the chroma."""
    return Nv12(picture[:, :, 0].copy(), picture[: (picture.shape[0] + 1) // 2, : (picture.shape[1] + 1) // 2, 1:].copy(), "bt709")


def on_device(frame: Nv12) -> Nv12:
    """The same of tensors."""
    return Nv12(torch.from_numpy(frame.luma), torch.from_numpy(frame.chroma), frame.matrix)


def frames(count: int, height: int = 90, width: int = 120, seed: int = 0) -> list[np.ndarray]:
    """Noise that drifts over the picture, uint8 [H, W, 3]."""
    generator = np.random.default_rng(seed)
    field = generator.integers(0, 256, (height + 2 * count, width + 3 * count, 3), np.uint8)
    return [field[2 * i : 2 * i + height, 3 * i : 3 * i + width] for i in range(count)]
