"""Public OSTrack checkpoints under our names. Ours are the same, so the mapping only drops what the network never uses."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.errors import WeightsError
from engine.model.network import build_model

# In the public state dicts, never read by the forward pass: the ViT's own class token and position grid.
UNUSED = ("backbone.cls_token", "backbone.pos_embed")


def from_ostrack(state_dict: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The parameters of `build_model(config)` from an OSTrack state dict, shapes checked.

    WeightsError lists every missing, unexpected and misshapen key.
    """
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in build_model(config).state_dict().items()}
    given = {name.removeprefix("module."): value for name, value in state_dict.items()}
    given = {name: value for name, value in given.items() if name not in UNUSED}
    counters = [name for name in expected if name.endswith("num_batches_tracked") and name not in given]
    given |= {name: torch.zeros((), dtype=torch.int64) for name in counters}
    problems = [f"missing {name} {expected[name]}" for name in expected if name not in given]
    problems += [f"unexpected {name} {tuple(given[name].shape)}" for name in given if name not in expected]
    problems += [
        f"{name}: expected {expected[name]}, got {tuple(value.shape)}"
        for name, value in given.items()
        if name in expected and tuple(value.shape) != expected[name]
    ]
    if problems:
        raise WeightsError(f"weights do not fit the model {config.name!r}: " + "; ".join(problems))
    return {name: given[name] for name in expected}
