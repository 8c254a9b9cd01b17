"""Photometric augmentation, drawn: what video does to an object between two frames, and what cameras do to both crops."""

from __future__ import annotations

import numpy as np

from engine.config import ModelConfig
from engine.training.recipe import Blur, Look
from engine.training.settings import AugmentConfig

Generator = np.random.Generator
_RAMP = np.arange(256, dtype=np.float32)


def draw_looks(config: AugmentConfig, model: ModelConfig, rng: Generator) -> tuple[Look, Look]:
    """The looks of a pair's template and search crop."""
    flip = rng.random() < config.flip
    flips = [bool(flip != (config.flip_apart > 0 and rng.random() < config.flip_apart)) for _ in range(2)]
    hue = float(rng.normal(0, 40)) if rng.random() < config.hue else 0.0
    grey = bool(rng.random() < config.grey)
    first = _colours(rng, config.colours, config.brightness)
    second = _colours(rng, config.colours * (0.4 if rng.random() < 0.6 else 1.0), config.brightness)
    search_blur = _blur(rng) if rng.random() < config.blur else None
    template_blur = _blur(rng) if rng.random() < config.blur / 3 else None
    smalls: tuple[int | None, int | None] = (None, None)
    quality = None
    if rng.random() < config.low_resolution:
        full = model.template_size / model.template_factor  # the target's size in a crop
        target = np.exp(rng.uniform(np.log(config.smallest_target), np.log(full)))  # and as if it had had this one in the frame
        quality = int(rng.integers(35, 96)) if rng.random() < 0.6 else None
        factors = (target / full * np.exp(rng.normal(0, 0.1)), target / full)
        smalls = (_side(model.template_size, factors[0]), _side(model.search_size, factors[1]))
    noises: list[tuple[int, float] | None] = [None, None]
    if rng.random() < config.noise:
        noises = [(int(rng.integers(2**31)), float(rng.uniform(2, 10))) for _ in range(2)]
    return (
        Look(flips[0], hue, grey, *first, template_blur, smalls[0], quality, noises[0]),
        Look(flips[1], hue, grey, *second, search_blur, smalls[1], quality, noises[1]),
    )


def _side(size: int, factor: float) -> int:
    return min(size, max(8, round(size * factor)))


def _colours(rng: Generator, strength: float, brightness: float) -> tuple[np.ndarray | None, float]:
    """A table of brightness, contrast, gamma and colour balance, and the saturation. `strength` 1 is strong, 0 nothing."""
    contrast, gamma = np.exp(strength * rng.normal(0, 0.22)), np.exp(strength * rng.normal(0, 0.2))
    lift = strength * rng.normal(0, 18)
    balance = np.exp(strength * rng.normal(0, 0.07, 3))
    saturation = float(np.clip(1 + strength * rng.normal(0, 0.3), 0, 2))
    gain = 1 + brightness * rng.uniform(-1, 1)
    if strength == 0 and brightness == 0:
        return None, 1.0
    curve = 255 * (_RAMP / 255) ** gamma
    table = ((curve[:, None] - 110) * contrast * balance + 110 + lift) * gain
    return np.clip(table, 0, 255).astype(np.uint8), saturation


def _blur(rng: Generator) -> Blur:
    """Motion along a random direction, or (one time in three) a Gaussian."""
    if rng.random() < 1 / 3:
        return Blur(sigma=float(rng.uniform(0.5, 2.0)))
    return Blur(length=int(rng.integers(3, 16)) | 1, angle=float(rng.uniform(0, np.pi)))
