"""The head's features, convolutions and maps in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

BRANCHES = 3
FLOOR = 1e-4  # of a probability, and of its distance from 1 (public code)


def unsupported() -> str | None:
    """The reference runs wherever PyTorch does."""
    return None


def head_features(tokens: Tensor, gain: Tensor, bias: Tensor, eps: float, kept: Tensor | None, length: int, dtype: torch.dtype) -> Tensor:
    """LayerNorm [B, n, C], rounded to dtype, at the places `kept` of [B, length, C]."""
    rows = functional.layer_norm(tokens, tokens.shape[-1:], gain, bias, eps).to(dtype)
    if kept is None:
        return rows
    out = rows.new_zeros(rows.shape[0], length, rows.shape[2])
    return out.scatter(1, kept.unsqueeze(-1).expand_as(rows), rows)


def head_maps(hidden: Tensor, weight: Tensor, bias: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """[B, F * F, C] -> score, size, offset."""
    logits = torch.baddbmm(bias.unsqueeze(1), weight.expand(hidden.shape[0], -1, -1), hidden.float().transpose(1, 2))
    score, offset, size = logits.unflatten(2, (side, side)).split((1, 2, 2), dim=1)
    score, size = (values.sigmoid().clamp(FLOOR, 1 - FLOOR) for values in (score, size))
    return score, size, offset.contiguous()


def head_convolution(x: Tensor, weight: Tensor, bias: Tensor, groups: int, side: int) -> Tensor:
    """[B, F * F, C] -> [B, F * F, N]."""
    image = x.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    out = functional.conv2d(image, weight.permute(0, 3, 1, 2), bias, padding=1, groups=groups).relu()
    return out.permute(0, 2, 3, 1).flatten(1, 2)


def head_convolution_with_maps(
    x: Tensor, weight: Tensor, bias: Tensor, last_weight: Tensor, last_bias: Tensor, side: int
) -> tuple[Tensor, Tensor, Tensor]:
    """[B, F * F, C] -> score, size, offset."""
    return head_maps(head_convolution(x, weight, bias, BRANCHES, side), last_weight, last_bias, side)
