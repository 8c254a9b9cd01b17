"""Low-rank adaptation of the backbone's linear layers (Hu et al. 2022), by which LoRAT (Lin et al. 2024) makes a tracker of DINOv2: a layer's matrix
is W + B A, of which only A [rank, in] and B [out, rank] learn, so that few pictures cannot wear out what W knows. An exported file holds the sum."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from engine.model.network import EsatNetwork

_DOWN, _UP = "low_rank_down", "low_rank_up"


class LowRankLinear(nn.Linear):
    """A linear layer whose weight stays as it is; the product of two thin matrices is added to it."""

    low_rank_down: Tensor
    low_rank_up: Tensor

    def forward(self, x: Tensor) -> Tensor:
        thin = nn.functional.linear(x, self.low_rank_down).flatten(0, -2)
        y = super().forward(x)
        up = self.low_rank_up.t().to(y.dtype)  # autocast does not cast for sums in place, which spare a pass over a large tensor
        return y.flatten(0, -2).addmm_(thin, up).view_as(y)


def add_low_rank(network: EsatNetwork, rank: int, frozen_layers: int) -> None:
    """From now on each matrix of the layers above the frozen ones is fixed and learns a correction of this rank, which starts at zero."""
    for block in network.backbone.blocks[frozen_layers:]:
        for layer in block.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.requires_grad_(False)
                layer.__class__ = LowRankLinear
                down = torch.empty(rank, layer.in_features)
                nn.init.kaiming_uniform_(down, a=math.sqrt(5))
                layer.register_parameter(_DOWN, nn.Parameter(down))
                layer.register_parameter(_UP, nn.Parameter(torch.zeros(layer.out_features, rank)))


def merge_low_rank(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with each correction added to its matrix, under the names of the plain network."""
    merged = dict(parameters)
    for name in parameters:
        if name.endswith("." + _DOWN):
            layer = name.removesuffix(_DOWN)
            merged[layer + "weight"] = merged[layer + "weight"] + merged.pop(layer + _UP) @ merged.pop(name)
    return merged
