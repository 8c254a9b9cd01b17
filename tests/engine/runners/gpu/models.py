"""Small networks and moving pictures that the engine's tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from conformance import golden
from engine.runners.gpu.runner import GpuRunner
from engine.runners.gpu.streams import Streams
from engine.weights.io import Weights
from tests.networks import TINY

SMALL = TINY.replace(name="small", dim=64, depth=4, head_channels=16, template_size=48, search_size=96, elimination_layers=(1, 2))


def weights(**changes) -> Weights:
    return golden.draw_weights(SMALL.replace(**changes), 3, 2.0, Path("test"))


def runner(dtype: str = "fp32", streams: Streams | None = None, **changes) -> GpuRunner:
    """The engine on the CPU with the reference kernels."""
    return GpuRunner(weights(**changes), "cpu", dtype, "reference", streams)


def frames(count: int, height: int = 90, width: int = 120, seed: int = 0) -> list[np.ndarray]:
    """Noise that drifts over the picture, uint8 [H, W, 3]."""
    generator = np.random.default_rng(seed)
    field = generator.integers(0, 256, (height + 2 * count, width + 3 * count, 3), np.uint8)
    return [field[2 * i : 2 * i + height, 3 * i : 3 * i + width] for i in range(count)]
