"""Weights as the CPU engine reads them: LayerNorm and batch norm folded in, packed in the order in which products read them, in huge pages."""

from __future__ import annotations

import dataclasses
import math
import mmap
from collections.abc import Mapping

import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.model.head import BRANCHES
from engine.weights.folding import folded_convolution, folded_linear

_HUGE_PAGE = 2 << 20
PANEL = 32  # outputs of a panel and inputs of a step: both are padded to multiples of it
INT8_STEP = 64  # inputs of a step where weights are int8
TILE_ROWS = 16
NO_PAIR_LIMIT = 2 * 127
_ROWS_AT_A_TIME = 256  # of a weight that is rounded: they stay in the cache


def padded(count: int, unit: int = PANEL) -> int:
    """`count` rounded up to a multiple of `unit`."""
    return -(-count // unit) * unit


def huge_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A zeroed CPU tensor in huge pages where the system has them: products touch a new 4 KB page every few rows otherwise."""
    needed = max(1, math.prod(shape)) * dtype.itemsize
    block = mmap.mmap(-1, needed + _HUGE_PAGE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        block.madvise(mmap.MADV_HUGEPAGE)
    raw = torch.frombuffer(block, dtype=torch.uint8)  # keeps the mapping alive
    start = -raw.data_ptr() % _HUGE_PAGE
    return raw[start : start + needed].view(dtype)[: math.prod(shape)].view(shape)


def pack(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A product's weight [N, K] -> [N / 32, K / s, 2, s / j, 16, j], N and K padded with zeros (the layout of csrc/linear/linear.h).

    A step s is 32 inputs, 64 for int8. j, the inputs beside each other in a lane of 32 bits, is 4 for int8, 2 for bfloat16 and 1 for float32.
    """
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
    out = torch.zeros(padded(bias.numel()))
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
    factors = torch.arange(8, 17) / 8
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
    """weight packed, bias float32, both padded. For int8 also the scale of each output's weights and, for each part of the inputs, the
    sums of its int8 weights."""

    weight: Tensor
    bias: Tensor
    column_scale: Tensor | None = None  # float32 [N]
    column_sum: Tensor | None = None  # int32 [parts, N]

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> PackedProduct:
        return cls(pack(weight, dtype), pad_bias(bias))

    @classmethod
    def int8(cls, weight: Tensor, bias: Tensor, part: int, pair_limit: int = NO_PAIR_LIMIT) -> PackedProduct:
        """Symmetric within -127 .. 127, one scale an output. `part`: inputs that are multiplied at a time. `pair_limit`: the largest
        magnitude that the sum of two neighbours' weights, inputs 2 i and 2 i + 1, may have, at least 127."""
        scale, rounded = rounded_to_int8(weight, pair_limit)
        sums = rounded.view(weight.shape[0], -1, part).sum(dim=2, dtype=torch.int32).t().contiguous()
        return cls(pack(rounded, torch.int8), pad_bias(bias), scale, sums)

    def addresses(self) -> list[int]:
        """As the native encoder takes them, 0 for what there is not."""
        return [0 if tensor is None else tensor.data_ptr() for tensor in (self.weight, self.bias, self.column_scale, self.column_sum)]


@dataclasses.dataclass
class PackedConvolution:
    """A 3 x 3 convolution with its batch norm: weight packed over (dy, dx, channel)."""

    weight: Tensor
    bias: Tensor
    inputs: int  # padded
    outputs: int  # padded


@dataclasses.dataclass
class PackedBranch:
    """One branch of the head: four convolutions, and the 1 x 1 one as a float32 matrix [inputs, outputs] with its bias."""

    convolutions: list[PackedConvolution]
    last_weight: Tensor
    last_bias: Tensor


@dataclasses.dataclass
class PackedLayer:
    """One encoder layer."""

    qkv: PackedProduct
    projection: PackedProduct
    mlp_in: PackedProduct
    mlp_out: PackedProduct

    def addresses(self) -> list[list[int]]:
        """As the native encoder takes them."""
        return [product.addresses() for product in (self.qkv, self.projection, self.mlp_in, self.mlp_out)]


@dataclasses.dataclass
class PackedWeights:
    """Everything the engine needs of a model. Positions are float32 [tokens in whole tiles, dim] and hold the patch embedding's bias."""

    patch: Tensor
    template_position: Tensor
    search_position: Tensor
    layers: list[PackedLayer]
    norm_gain: Tensor
    norm_bias: Tensor
    branches: dict[str, PackedBranch]


def _convolution(state: Mapping[str, Tensor], dtype: torch.dtype, name: str) -> PackedConvolution:
    weight, bias = folded_convolution(state, name)
    outputs, inputs = weight.shape[:2]
    square = weight.new_zeros(padded(outputs), 9, padded(inputs))
    square[:outputs, :, :inputs] = weight.permute(0, 2, 3, 1).reshape(outputs, 9, inputs)
    return PackedConvolution(pack(square.flatten(1), dtype), pad_bias(bias), padded(inputs), padded(outputs))


def _branch(state: Mapping[str, Tensor], dtype: torch.dtype, branch: str) -> PackedBranch:
    convolutions = [_convolution(state, dtype, f"box_head.conv{layer}_{branch}") for layer in range(1, 5)]
    last = state[f"box_head.conv5_{branch}.weight"].flatten(1)
    weight = torch.zeros(convolutions[-1].outputs, last.shape[0])
    weight[: last.shape[1]] = last.t()
    return PackedBranch(convolutions, weight, state[f"box_head.conv5_{branch}.bias"].clone())


def _whole_tiles(rows: Tensor) -> Tensor:
    out = huge_zeros((padded(rows.shape[0], TILE_ROWS), rows.shape[1]), torch.float32)
    out[: rows.shape[0]] = rows
    return out


def pack_weights(
    state: Mapping[str, Tensor], config: ModelConfig, dtype: torch.dtype, int8_part: int | None = None, int8_pair_limit: int = NO_PAIR_LIMIT
) -> PackedWeights:
    """The state dict of `build_model(config)` (float32) for products in `dtype`, bfloat16 or float32.

    `int8_part`: q, k, v and the MLP in int8 instead; the hidden columns that the MLP's second product takes at a time; `int8_pair_limit`:
    of the kernels, see `PackedProduct.int8`.
    """
    embedding_bias = state["backbone.patch_embed.proj.bias"]

    def product(name: str, norm: str | None = None, part: int | None = None) -> PackedProduct:
        weight, bias = folded_linear(state, name, norm)
        return PackedProduct.of(weight, bias, dtype) if part is None else PackedProduct.int8(weight, bias, part, int8_pair_limit)

    layers = []
    for index in range(config.depth):
        name = f"backbone.blocks.{index}"
        part = None if int8_part is None else config.dim
        layers.append(
            PackedLayer(
                product(f"{name}.attn.qkv", f"{name}.norm1", part),
                product(f"{name}.attn.proj"),
                product(f"{name}.mlp.fc1", f"{name}.norm2", part),
                product(f"{name}.mlp.fc2", None, int8_part),
            )
        )
    return PackedWeights(
        patch=pack(state["backbone.patch_embed.proj.weight"].flatten(1), dtype),
        template_position=_whole_tiles(state["backbone.pos_embed_z"][0] + embedding_bias),
        search_position=_whole_tiles(state["backbone.pos_embed_x"][0] + embedding_bias),
        layers=layers,
        norm_gain=state["backbone.norm.weight"].contiguous(),
        norm_bias=state["backbone.norm.bias"].contiguous(),
        branches={branch: _branch(state, dtype, branch) for branch in BRANCHES},
    )
