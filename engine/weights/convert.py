"""`esat convert`: a public checkpoint becomes a safetensors file of ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.config import PRESETS, ModelConfig, preset
from engine.errors import WeightsError
from engine.weights.checkpoint import read_checkpoint
from engine.weights.io import file_hash, save_weights
from engine.weights.ostrack import from_ostrack

_STATE_DICT_KEYS = ("net", "model", "state_dict", "network")  # where public checkpoints keep the parameters


def find_state_dict(checkpoint: Any) -> dict[str, Tensor]:
    """The parameters in a checkpoint: the dictionary of tensors by name itself, or one under a usual key. WeightsError if there is none."""
    candidates = [checkpoint]
    if isinstance(checkpoint, Mapping):
        candidates = [checkpoint[key] for key in _STATE_DICT_KEYS if key in checkpoint] + candidates
    for candidate in candidates:
        if isinstance(candidate, Mapping) and candidate and all(map(_is_parameter, candidate.items())):
            return dict(candidate)
    keys = sorted(map(str, checkpoint)) if isinstance(checkpoint, Mapping) else type(checkpoint).__name__
    raise WeightsError(
        f"no dictionary of tensors found: looked at the top level and under {', '.join(_STATE_DICT_KEYS)}; the file has {keys}"
    )


def _is_parameter(item: tuple[Any, Any]) -> bool:
    name, value = item
    return isinstance(name, str) and isinstance(value, Tensor)


def guess_config(state_dict: Mapping[str, Tensor]) -> ModelConfig:
    """The OSTrack preset whose position embeddings have these shapes. WeightsError if none has."""
    shape = next((tuple(value.shape) for name, value in state_dict.items() if name.endswith("backbone.pos_embed_x")), None)
    for name in ("ostrack-384", "ostrack-256"):
        config = PRESETS[name]
        if shape == (1, config.num_search, config.dim):
            return config
    raise WeightsError(f"cannot tell the model from backbone.pos_embed_x of shape {shape}: name a preset with --model")


def convert(source: str | Path, target: str | Path, model: str | None = None) -> ModelConfig:
    """Convert the OSTrack checkpoint `source` to the safetensors file `target`; returns the configuration stored with it.

    model: the preset whose sizes and force constants to store; by default the OSTrack preset of the same sizes. WeightsError, ConfigError.
    """
    state_dict = find_state_dict(read_checkpoint(source))
    config = guess_config(state_dict) if model is None else preset(model)
    parameters = from_ostrack(state_dict, config)
    save_weights(
        target, parameters, config, {"source": Path(source).name, "source_sha256": file_hash(source), "converted_by": "esat convert"}
    )
    return config
