"""Weights as the GPU engine reads them: normalisations folded in, cast once, on the device."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

import esat_kernels
from engine.config import ModelConfig
from engine.model import token_types
from engine.model.head import BRANCHES
from engine.runners.gpu.choices import Choices
from engine.runners.gpu.products import Product, Rest
from engine.runners.gpu.products_fp8 import Fp8Rest
from engine.weights.folding import folded_convolution, folded_linear


@dataclasses.dataclass(frozen=True)
class Layer:
    """One encoder layer."""

    qkv: Product
    rest: Rest | Fp8Rest


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A 3 x 3 convolution of all branches at once: weight [sum of outputs, inputs of one group, 3, 3], channels last."""

    weight: Tensor
    bias: Tensor
    groups: int


@dataclasses.dataclass(frozen=True)
class HeadWeights:
    """The head's branches side by side, in the order of `BRANCHES`."""

    convolutions: list[Convolution]
    last_weight: Tensor  # float32 [5, channels of all branches]: score, offset x and y, size w and h; zero outside a row's own branch
    last_bias: Tensor  # float32 [5]


@dataclasses.dataclass(frozen=True)
class GpuWeights:
    """Everything the engine needs of a model. Positions are float32 [tokens, dim] and hold the patch embedding's bias."""

    patch: Product
    template_position: Tensor
    search_position: Tensor
    token_type: Tensor | None  # float32 [dim], of the template's tokens in the target's box
    layers: list[Layer]
    norm_gain: Tensor  # float32; the final norm cannot be folded: the head's map is zero where tokens were eliminated
    norm_bias: Tensor
    head: HeadWeights


def _head(state: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> HeadWeights:
    convolutions = []
    for layer in range(1, 5):
        folded = [folded_convolution(state, f"box_head.conv{layer}_{branch}") for branch in BRANCHES]
        weight = torch.cat([weight for weight, _ in folded]).to(device, dtype).contiguous(memory_format=torch.channels_last)
        # The branches share the first layer's input; from then on each reads its own channels.
        convolutions.append(
            Convolution(weight, torch.cat([bias for _, bias in folded]).to(device, dtype), 1 if layer == 1 else len(BRANCHES))
        )
    last = [state[f"box_head.conv5_{branch}.weight"].flatten(1) for branch in BRANCHES]
    bias = torch.cat([state[f"box_head.conv5_{branch}.bias"] for branch in BRANCHES])
    return HeadWeights(convolutions, torch.block_diag(*last).to(device), bias.to(device))


def fold_weights(
    state: Mapping[str, Tensor],
    config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
    choices: Choices,
    backend: str,
    fp8: bool = False,
) -> GpuWeights:
    """The state dict of `build_model(config)` (float32) in `dtype` on `device`, fp8: the MLPs' in e4m3; `backend` names the kernels' backend of
    fused products.
    """

    counters = esat_kernels.meeting_counters(device)

    def product(weight: Tensor, bias: Tensor, norm: bool = False, gelu: bool = False) -> Product:
        return Product(weight.to(device, dtype).contiguous(), bias.to(device, dtype), choices, backend, norm, gelu, counters)

    layers = []
    for index in range(config.depth):
        name = f"backbone.blocks.{index}"
        projection = folded_linear(state, f"{name}.attn.proj")
        mlp_in, mlp_out = folded_linear(state, f"{name}.mlp.fc1", f"{name}.norm2"), folded_linear(state, f"{name}.mlp.fc2")
        rest: Rest | Fp8Rest
        if fp8:
            placed = [(weight.to(device), bias.to(device)) for weight, bias in (projection, mlp_in, mlp_out)]
            rest = Fp8Rest(placed[0], placed[1], placed[2], backend)
        else:
            rest = Rest(product(*projection), product(*mlp_in, norm=True, gelu=True), product(*mlp_out))
        layers.append(Layer(product(*folded_linear(state, f"{name}.attn.qkv", f"{name}.norm1"), norm=True), rest))
    patch, patch_bias = folded_linear(state, "backbone.patch_embed.proj")
    return GpuWeights(
        patch=product(patch.flatten(1), torch.zeros_like(patch_bias)),
        template_position=(state["backbone.pos_embed_z"][0] + patch_bias).to(device),
        search_position=(state["backbone.pos_embed_x"][0] + patch_bias).to(device),
        token_type=state[token_types.PARAMETER].to(device) if config.token_types else None,
        layers=layers,
        norm_gain=state["backbone.norm.weight"].to(device),
        norm_bias=state["backbone.norm.bias"].to(device),
        head=_head(state, device, dtype),
    )
