"""Weights as the compiled CPU products read them: packed in the order in which they are read, in huge pages."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import mmap

import torch
from torch import Tensor

PANEL = 32  # outputs of a panel and inputs of a step: both are padded to multiples of it
INT8_STEP = 64  # inputs of a step where weights are int8
TILE_ROWS = 16  # rows are computed in whole tiles
NO_PAIR_LIMIT = 2 * 127
_HUGE_PAGE = 2 << 20
_ROWS_AT_A_TIME = 256  # of a weight that is rounded: they stay in the cache


def padded(count: int, unit: int = PANEL) -> int:
    """`count` rounded up to a multiple of `unit`."""
    return -(-count // unit) * unit


def huge_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A zeroed CPU tensor of this process alone, in huge pages where the system has them."""
    needed = max(1, math.prod(shape)) * dtype.itemsize
    # The default is shared: a forked tracker would write into its parent's activations.
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    block = mmap.mmap(-1, needed + _HUGE_PAGE, **private)
    raw = torch.frombuffer(block, dtype=torch.uint8)  # keeps the mapping alive
    start, whole = -raw.data_ptr() % _HUGE_PAGE, needed // _HUGE_PAGE * _HUGE_PAGE
    if whole and hasattr(mmap, "MADV_HUGEPAGE"):  # of a rest, a huge page would be memory for nothing
        with contextlib.suppress(OSError):  # a kernel without huge pages
            block.madvise(mmap.MADV_HUGEPAGE, start, whole)
    return raw[start : start + needed].view(dtype)[: math.prod(shape)].view(shape)


def packed_shape(packed: Tensor) -> tuple[int, int]:
    """N and K of a weight that `pack` made, as they were padded."""
    return packed.shape[0] * PANEL, packed.shape[1] * packed.shape[3] * packed.shape[5]


def pack(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A product's weight [N, K] -> [N / 32, K / s, 2, s / j, 16, j], N and K padded with zeros (the layout of csrc/linear/linear.h).

    A step s is 32 inputs, 64 for int8. j, the inputs beside each other in a lane of 32 bits, is 4 for int8, 2 for bfloat16 and 1 for float32.
    ValueError for anything but these dtypes and a matrix.
    """
    if weight.dim() != 2 or dtype not in (torch.float32, torch.bfloat16, torch.int8):
        raise ValueError(f"pack: expected [N, K] for float32, bfloat16 or int8, got {tuple(weight.shape)} for {dtype}")
    outputs, inputs = weight.shape
    lane = 4 // dtype.itemsize
    step = INT8_STEP if dtype == torch.int8 else PANEL
    square = weight.new_zeros(padded(outputs), padded(inputs, step))
    square[:outputs, :inputs] = weight
    panels = square.view(-1, 2, 16, square.shape[1] // step, step // lane, lane).permute(0, 3, 1, 4, 2, 5)
    packed = huge_zeros(tuple(panels.shape), dtype)
    return packed.copy_(panels)


def pad_bias(bias: Tensor) -> Tensor:
    """float32 with zeros up to a multiple of 32."""
    out = torch.zeros(padded(bias.numel()), dtype=torch.float32, device="cpu")
    out[: bias.numel()] = bias
    return out


def rounded_to_int8(weight: Tensor, pair_limit: int) -> tuple[Tensor, Tensor]:
    """The scale of each output, float32 [N], and the weights [N, K] over it, int8: see `PackedProduct.int8`.

    Where pairs are limited, the scale is the one of nine up to twice the finest whose squared error is least: a finer one rounds
    better, a coarser one leaves fewer pairs to cut. At twice the finest hardly any is cut.
    """
    finest = weight.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / 127
    if pair_limit >= NO_PAIR_LIMIT:
        return finest, (weight / finest[:, None]).round().to(torch.int8)
    factors = torch.arange(8, 17, dtype=torch.float32, device=weight.device) / 8
    scales, parts = [], []
    for rows, unit in zip(weight.split(_ROWS_AT_A_TIME), finest.split(_ROWS_AT_A_TIME), strict=True):
        values = rows / unit[:, None]
        errors = torch.stack([(_rounded_pairs(values / factor, pair_limit) * factor - values).square_().sum(dim=1) for factor in factors])
        best = factors[errors.argmin(dim=0)]
        scales.append(unit * best)
        parts.append(_rounded_pairs(values / best[:, None], pair_limit).to(torch.int8))
    return torch.cat(scales), torch.cat(parts)


def _rounded_pairs(values: Tensor, limit: int) -> Tensor:
    """Rounded, and what two neighbours have beyond the limit taken from both in halves: they are of one sign then, and larger than that."""
    first, second = values[:, ::2].round(), values[:, 1::2].round()
    total = first + second
    excess = total - total.clamp(-limit, limit)
    half = (excess / 2).trunc()
    return torch.stack([first - half, second - (excess - half)], dim=2).view_as(values)


@dataclasses.dataclass
class PackedProduct:
    """A product's weight as `pack` and its bias as `pad_bias` make them. For int8 also the scale of each output's weights and, for each
    part of the inputs, the sums of its int8 weights."""

    weight: Tensor
    bias: Tensor
    column_scale: Tensor | None = None  # float32 [N]
    column_sum: Tensor | None = None  # int32 [parts, N]

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> PackedProduct:
        """weight [N, K] in float32 or bfloat16, and bias [N]."""
        return cls(pack(weight, dtype), pad_bias(bias))

    @classmethod
    def int8(cls, weight: Tensor, bias: Tensor, part: int, pair_limit: int = NO_PAIR_LIMIT) -> PackedProduct:
        """weight float32 [N, K] and bias [N]: symmetric within -127 .. 127, one scale an output. `part`: inputs that are multiplied at a
        time. `pair_limit`: the largest magnitude that the sum of two neighbours' weights, inputs 2 i and 2 i + 1, may have, at least 127.
        ValueError unless whole parts of an even number of inputs make up K.
        """
        if weight.shape[1] % part or part % 2:
            raise ValueError(f"pack: expected inputs in parts of {part}, an even number, got {tuple(weight.shape)}")
        scale, rounded = rounded_to_int8(weight, pair_limit)
        sums = rounded.view(weight.shape[0], -1, part).sum(dim=2, dtype=torch.int32).t().contiguous()
        return cls(pack(rounded, torch.int8), pad_bias(bias), scale, sums)

    def numbers(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What belongs to the outputs: bias, scales and sums."""
        return self.bias, self.column_scale, self.column_sum

    def addresses(self) -> list[int]:
        """As the compiled layers take them, 0 for what there is not."""
        return [0 if tensor is None else tensor.data_ptr() for tensor in (self.weight, *self.numbers())]
