"""Stochastic depth (Huang et al. 2016), which OSTrack trains with: attention and MLP of a layer are left out at random, pair by pair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from engine.model.network import EsatNetwork


def add_drop_path(network: EsatNetwork, rate: float) -> None:
    """From now on, in training mode, layer i of n leaves its branches out with probability rate i / (n - 1); what stays is scaled up."""
    if rate == 0:
        return
    rates = torch.linspace(0, rate, len(network.backbone.blocks)).tolist()
    for block, probability in zip(network.backbone.blocks, rates, strict=True):
        for branch in ("attn.proj", "mlp"):
            block.get_submodule(branch).register_forward_hook(_drop(1 - probability))


def _drop(keep: float) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def hook(module: nn.Module, _: Any, output: Tensor) -> Tensor:
        if not module.training:
            return output
        return output * output.new_empty(output.shape[0], 1, 1).bernoulli_(keep).div_(keep)

    return hook
