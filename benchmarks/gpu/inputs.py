"""Networks, images and frames that the GPU's measurements and checks share: random, but always the same."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conformance import golden
from engine.config import ModelConfig, preset
from engine.weights.io import Weights


def full_float32() -> None:
    """float32 convolutions as exact as products: PyTorch lets cuDNN round their operands to 10 bits (TF32) unless told otherwise."""
    torch.backends.cudnn.allow_tf32 = False


@functools.cache
def model_weights(name: str) -> Weights:
    """A preset with parameters by the golden files' rule: speed does not depend on them. `ostrack-*` has those of `esat-*`."""
    if name.startswith("ostrack-"):
        return dataclasses.replace(model_weights(name.replace("ostrack-", "esat-")), config=preset(name))
    return golden.draw_weights(preset(name), 12, 1.0, Path(name))


def small_weights() -> Weights:
    """Two layers with everything that a frame has, for tools that slow it down."""
    config = ModelConfig(
        "small", dim=64, heads=2, depth=2, template_size=48, search_size=96, search_factor=4.0, head_channels=16, elimination_layers=(0, 1)
    )
    return golden.draw_weights(config, 12, 1.0, Path("small"))


def images(config: ModelConfig, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Template and search images [B, 3, S, S], float32 with values that bf16 holds exactly."""
    generator = torch.Generator().manual_seed(batch)
    sizes = (config.template_size, config.search_size)
    template, search = (torch.randn(batch, 3, size, size, generator=generator).bfloat16().float().to(device) for size in sizes)
    return template, search


def pictures(count: int, height: int = 1080, width: int = 1920) -> list[NDArray[np.uint8]]:
    """A picture that drifts: uint8 [H, W, 3]."""
    generator = np.random.default_rng(0)
    field = generator.integers(0, 256, (height + 2 * count, width + 3 * count, 3), np.uint8)
    return [np.ascontiguousarray(field[2 * i : 2 * i + height, 3 * i : 3 * i + width]) for i in range(count)]


def boxes(count: int) -> list[tuple[float, float, float, float]]:
    """Targets spread over a 1080p picture."""
    return [(150.0 + 200 * (i % 8), 120.0 + 220 * (i // 8 % 4), 90.0 + i, 70.0 + 2 * i) for i in range(count)]
