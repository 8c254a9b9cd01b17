"""What the eight-bit products on a GPU work with: rows and weights in e4m3 with the scales that they were divided by."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from esat_kernels.linear.common import split_sums

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0  # of e4m3
GROUP = 128  # columns that share a scale: a tile's width, and the sums that Hopper's matrix units may add by themselves
LEAST_SCALE = 2.0**-100  # of a group of zeros


class Scaled(NamedTuple):
    """Rows [B, n, K] as an eight-bit product reads them, K a multiple of `GROUP`: each group of columns of each row over a scale of its own.

    Without statistics `rows` times `scales` are the rows x themselves. With them they are x - o, and x is a stream whose LayerNorm is algebra, as
    with `Centred`.
    """

    rows: Tensor  # float8_e4m3fn [B, n, K], contiguous
    scales: Tensor  # float32 [K / GROUP, B * n], contiguous
    statistics: Tensor | None = None  # float32 [3, B * n, K / GROUP], contiguous: as in `Centred`


class ScaledWeight(NamedTuple):
    """A weight [N, K] for products of `Scaled` rows, one scale an output."""

    values: Tensor  # float8_e4m3fn [N, K]
    scales: Tensor  # float32 [N]
    group_sums: Tensor  # bfloat16 [2, N, G]: as `esat_kernels.group_sums`, of the weight before it was rounded, over its scale


def unsupported(*widths: int) -> str | None:
    """Why there are no eight-bit products with so many inputs and outputs, or None."""
    if any(width % GROUP for width in widths):
        return f"eight-bit products need inputs and outputs in multiples of {GROUP}, got {', '.join(map(str, widths))}"
    return None


def scaled_memory(like: Tensor, columns: int, statistics: bool) -> Scaled:
    """Memory for what a product leaves of [B, n, columns], on the device of `like` [B, n, ...]; statistics: for a stream that will be normalised.
    ValueError unless columns are a multiple of `GROUP`.
    """
    if columns < 1 or columns % GROUP:
        raise ValueError(f"scaled_memory: columns must be a multiple of {GROUP}, got {columns}")
    batch, count = like.shape[:2]
    groups = columns // GROUP
    return Scaled(
        like.new_empty(batch, count, columns, dtype=E4M3),
        like.new_empty(groups, batch * count, dtype=torch.float32),
        like.new_empty(3, batch * count, groups, dtype=torch.float32) if statistics else None,
    )


def rounded_groups(values: Tensor) -> tuple[Tensor, Tensor]:
    """values [M, groups, GROUP] -> e4m3 of that shape and float32 scales [M, groups]: the largest of each group becomes `LARGEST`."""
    scales = values.abs().amax(2).clamp_min(LARGEST * LEAST_SCALE) / LARGEST
    return (values / scales.unsqueeze(2)).to(E4M3), scales.float()


def scaled_weight(weight: Tensor) -> ScaledWeight:
    """weight [N, K] in float32, the largest of each output as `LARGEST`. ValueError unless N and K are multiples of `GROUP`,
    TypeError for another dtype.

    A scale of least squared error, which eight-bit integers gain by, does not pay here: e4m3 is a floating-point format.
    """
    if weight.dim() != 2 or unsupported(*weight.shape):
        raise ValueError(f"scaled_weight: expected [N, K] in multiples of {GROUP}, got {tuple(weight.shape)}")
    if weight.dtype != torch.float32:  # one that was rounded before would be rounded twice
        raise TypeError(f"scaled_weight: weight must be {torch.float32}, got {weight.dtype}")
    scales = weight.abs().amax(1).clamp_min(LARGEST * LEAST_SCALE) / LARGEST
    over = weight / scales.unsqueeze(1)
    return ScaledWeight(over.to(E4M3), scales, split_sums(over.unflatten(1, (-1, GROUP)).sum(2)))
