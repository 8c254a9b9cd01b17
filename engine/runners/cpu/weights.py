"""Weights as the CPU engine reads them: LayerNorm and batch norm folded in, packed for the kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.model import token_types
from engine.model.head import BRANCHES
from engine.weights.folding import folded_convolution, folded_linear
from esat_kernels.layers.convolution import PackedConvolution
from esat_kernels.layers.encoder import PackedLayer
from esat_kernels.linear.packing import TILE_ROWS, huge_zeros, pack, padded


@dataclasses.dataclass
class PackedBranch:
    """One branch of the head: four convolutions, and the 1 x 1 one as a float32 matrix [inputs, outputs] with its bias."""

    convolutions: list[PackedConvolution]
    last_weight: Tensor
    last_bias: Tensor


@dataclasses.dataclass
class PackedWeights:
    """Everything the engine needs of a model. Positions are float32 [tokens in whole tiles, dim] and hold the patch embedding's bias."""

    patch: Tensor
    template_position: Tensor
    search_position: Tensor
    token_type: Tensor | None  # float32 [dim], of the template's tokens in the target's box
    layers: list[PackedLayer]
    norm: tuple[Tensor, Tensor]  # gain and bias of the last LayerNorm
    branches: dict[str, PackedBranch]


def _branch(state: Mapping[str, Tensor], dtype: torch.dtype, branch: str) -> PackedBranch:
    names = [f"box_head.conv{layer}_{branch}" for layer in range(1, 5)]
    convolutions = [PackedConvolution.of(*folded_convolution(state, name), dtype) for name in names]
    last = state[f"box_head.conv5_{branch}.weight"].flatten(1)
    weight = torch.zeros(convolutions[-1].outputs, last.shape[0], dtype=torch.float32, device="cpu")
    weight[: last.shape[1]] = last.t()
    return PackedBranch(convolutions, weight, state[f"box_head.conv5_{branch}.bias"].clone())


def _whole_tiles(rows: Tensor) -> Tensor:
    out = huge_zeros((padded(rows.shape[0], TILE_ROWS), rows.shape[1]), torch.float32)
    out[: rows.shape[0]] = rows
    return out


def pack_weights(state: Mapping[str, Tensor], config: ModelConfig, dtype: torch.dtype, int8: bool = False) -> PackedWeights:
    """The state dict of `build_model(config)` (float32) for products in `dtype`, bfloat16 or float32; `int8`: q, k, v and the MLP in int8."""
    embedding_bias = state["backbone.patch_embed.proj.bias"]
    layers = []
    for name in (f"backbone.blocks.{index}" for index in range(config.depth)):
        layers.append(
            PackedLayer.of(
                folded_linear(state, f"{name}.attn.qkv", f"{name}.norm1"),
                folded_linear(state, f"{name}.attn.proj"),
                folded_linear(state, f"{name}.mlp.fc1", f"{name}.norm2"),
                folded_linear(state, f"{name}.mlp.fc2"),
                *(dtype, int8),
            )
        )
    return PackedWeights(
        patch=pack(state["backbone.patch_embed.proj.weight"].flatten(1), dtype),
        template_position=_whole_tiles(state["backbone.pos_embed_z"][0] + embedding_bias),
        search_position=_whole_tiles(state["backbone.pos_embed_x"][0] + embedding_bias),
        token_type=state[token_types.PARAMETER] if config.token_types else None,
        layers=layers,
        norm=(state["backbone.norm.weight"].contiguous(), state["backbone.norm.bias"].contiguous()),
        branches={branch: _branch(state, dtype, branch) for branch in BRANCHES},
    )
