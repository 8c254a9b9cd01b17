"""Public OSTrack checkpoints under our names. Ours are the same, so the mapping only drops what the network never uses."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.weights.io import check_parameters

# In the public state dicts, never read by the forward pass: the ViT's own class token and position grid.
UNUSED = ("backbone.cls_token", "backbone.pos_embed")


def from_ostrack(state_dict: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The parameters of `build_model(config)` from an OSTrack state dict, shapes checked.

    WeightsError lists every missing, unexpected and misshapen key.
    """
    given = {name.removeprefix("module."): value for name, value in state_dict.items()}
    given = {name: value for name, value in given.items() if name not in UNUSED}
    for name in list(given):  # files of old PyTorch versions lack the batch counters
        if name.endswith("running_mean"):
            given.setdefault(name.replace("running_mean", "num_batches_tracked"), torch.zeros((), dtype=torch.int64))
    check_parameters(given, config, "checkpoint")
    return given
