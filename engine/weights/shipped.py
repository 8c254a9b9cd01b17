"""Which weights a model's name stands for."""

from __future__ import annotations

import os
from pathlib import Path

from engine.config import PRESETS, preset
from engine.errors import WeightsError
from engine.weights.io import Weights, load_weights

DEFAULT_MODEL = "esat-s-256"
_FOLDER = Path(__file__).parent


def shipped_path(name: str) -> Path:
    """Where the shipped weights of a preset would lie."""
    return _FOLDER / f"{name.replace('-', '_')}.safetensors"


def name_of(model: str) -> str:
    """What to call the weights that `find_weights` would find: a preset's name, or a file's without folder and ending."""
    return Path(model).stem if model.endswith(".safetensors") else model


def find_weights(model: str | Path) -> Weights:
    """The weights of a preset's name or of a path to a .safetensors file. WeightsError or ConfigError say what is there instead."""
    if str(model) in PRESETS:
        path = shipped_path(str(model))
        if not path.is_file():
            raise WeightsError(
                f"no weights are shipped for {model!r} (only for {DEFAULT_MODEL!r}): pass the path of a .safetensors file, "
                "for instance one that `esat convert` made of a public checkpoint"
            )
        return load_weights(path)
    if Path(model).suffix or os.path.exists(model):
        return load_weights(model)
    preset(str(model))  # raises, with the names there are
    raise AssertionError("unreachable")
