"""Normalisations folded into the weights beside them: what an engine multiplies with instead of carrying them out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_BATCH_NORM_EPS = 1e-5  # PyTorch's default, with which the public weights were trained


def folded_linear(state: Mapping[str, Tensor], name: str, norm: str | None = None) -> tuple[Tensor, Tensor]:
    """Weight [N, K] and bias [N] of the linear layer `name`, with gain and bias of the LayerNorm `norm` before it folded in."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    if norm is not None:  # W (g x + b) + c = (W g) x + (W b + c)
        bias = bias + weight @ state[f"{norm}.bias"]
        weight = weight * state[f"{norm}.weight"]
    return weight, bias


def folded_convolution(state: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """Weight [N, K, 3, 3] and bias [N] of `name`.0 with the statistics, gain and bias of the batch norm `name`.1 folded in."""
    weight, bias = state[f"{name}.0.weight"], state[f"{name}.0.bias"]
    gain = state[f"{name}.1.weight"] / torch.sqrt(state[f"{name}.1.running_var"] + _BATCH_NORM_EPS)
    return weight * gain.view(-1, 1, 1, 1), (bias - state[f"{name}.1.running_mean"]) * gain + state[f"{name}.1.bias"]
