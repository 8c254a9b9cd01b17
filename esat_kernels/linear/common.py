"""What the backends of the linear layer share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from esat_kernels._triton import power_of_two


class Squares(NamedTuple):
    """Which sums of squares a product leaves: of `groups` groups of `width` columns, the first group at column `first`."""

    first: int
    width: int
    groups: int


class Centred(NamedTuple):
    """A stream x [B, n, K] as a product reads it whose LayerNorm is algebra: what `linear_into` leaves, and takes in place of x.

    For each row, and each group of `width` adjacent columns, the product in front chooses an origin o near the group's mean.
    """

    rows: Tensor  # bfloat16 [B, n, K], contiguous: x - o
    statistics: Tensor  # float32 [3, B * n, K / width], contiguous: o, the group's mean less o, the sum of squared distances from the mean

    @property
    def width(self) -> int:
        return self.rows.shape[2] // self.statistics.shape[2]


COUNTERS = 1024  # tiles whose parts may meet in a launch
GROUP_WIDTHS = (64, 32, 16)


def group_width(columns: int) -> int:
    """Columns of a group in a stream of so many columns: the widest that divides them, 0 if none does."""
    return next((width for width in GROUP_WIDTHS if columns % width == 0), 0)


def split_sums(sums: Tensor) -> Tensor:
    """sums float32 [N, groups] in two parts that add up: bfloat16 [2, N, G], zeros behind the last group; G is a power of two, at least 16."""
    sums = torch.nn.functional.pad(sums, (0, max(16, power_of_two(sums.shape[1])) - sums.shape[1]))
    high = sums.bfloat16()
    return torch.stack([high, (sums - high.float()).bfloat16()])
