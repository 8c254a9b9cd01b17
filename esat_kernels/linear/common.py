"""What the backends of the linear layer share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from esat_kernels._triton import power_of_two


def check_part(name: str, tensor: object, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...], device: torch.device) -> None:
    """That a part is what kernels take it for, which get no more of it than its address: a contiguous tensor of this shape, one of these dtypes and
    on this device. ValueError for shape, device and strides, TypeError for what is no tensor or has another dtype.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor {shape}, got {type(tensor).__name__}")
    if tuple(tensor.shape) != shape or tensor.device != device:
        raise ValueError(f"{name} must be {shape} on {device}, got {tuple(tensor.shape)} on {tensor.device}")
    if tensor.dtype not in dtypes:
        raise TypeError(f"{name} must be {' or '.join(map(str, dtypes))}, got {tensor.dtype}")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous, got {shape} with strides {tensor.stride()}")


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


def padded_groups(groups: int) -> int:
    """G, the columns of `split_sums`: a power of two and at least 16, since a kernel multiplies by them on the matrix units."""
    return max(16, power_of_two(groups))


def split_sums(sums: Tensor) -> Tensor:
    """sums float32 [N, groups] in two parts that add up: bfloat16 [2, N, G], zeros behind the last group; G is as `padded_groups` says."""
    sums = torch.nn.functional.pad(sums, (0, padded_groups(sums.shape[1]) - sums.shape[1]))
    high = sums.bfloat16()
    return torch.stack([high, (sums - high.float()).bfloat16()])
