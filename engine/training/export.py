"""From a checkpoint to the file that an engine loads: averaged weights in half precision, without the position heads, with their history."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from engine.commit import commit_of
from engine.config import ModelConfig
from engine.errors import EsatError, WeightsError
from engine.training.config import TrainConfig
from engine.training.low_rank import merge_low_rank
from engine.weights.checkpoint import read_checkpoint
from engine.weights.convert import find_state_dict
from engine.weights.io import save_weights

_NETWORK = "network."
_ELSEWHERE = (
    "model",
    "notes",
    "data",
    "pseudo",
    "clips",
    "init",
    "layouts",
)  # settings that have an entry of their own, or name places on one machine


def network_parameters(averaged: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's part of a `TrainingModel`'s state dict: matrices and kernels as float16, vectors and statistics as float32."""
    tensors = {}
    for name, value in merge_low_rank(averaged).items():
        if name.startswith(_NETWORK):
            half = value.is_floating_point() and value.dim() > 1
            tensors[name.removeprefix(_NETWORK)] = value.half() if half else value
    return tensors


def commit() -> str:
    """The source's commit, `+` behind it if files differ; "unknown" outside a repository."""
    found = commit_of(Path(__file__).parents[2])
    return "unknown" if found is None else found.hash + "+" * found.changed


def export_checkpoint(checkpoint: str | Path, path: str | Path, config: TrainConfig, metadata: Mapping[str, str] | None = None) -> int:
    """Write the averaged weights of a run's checkpoint to a .safetensors file; returns the step. WeightsError for a bad checkpoint."""
    try:
        state = read_checkpoint(checkpoint)
        averaged, step = find_state_dict(state["averaged"]), int(state["step"])
        model = ModelConfig.from_dict(state["model_config"])
    except (EsatError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise WeightsError(f"{checkpoint} is not the checkpoint of a training run: {error}") from error
    history = {
        "steps": str(step),
        "pairs": str(step * config.batch),
        "seed": str(config.seed),
        "training": json.dumps({key: value for key, value in config.to_dict().items() if key not in _ELSEWHERE}),
        "commit": commit(),
    }
    save_weights(path, network_parameters(averaged), model, history | config.notes | dict(metadata or {}))
    return step
