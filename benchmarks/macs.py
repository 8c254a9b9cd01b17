"""Counting multiply-accumulates three ways: as `thop` does, every matrix product by PyTorch's counter, and in closed form.

Counts are exact integers for batch 1. Everything runs on the meta device: shapes only, no memory, no arithmetic.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from engine.config import ModelConfig

# Elements of a normalisation cost four each in thop (two for mean and variance, doubled for the affine part).
_THOP_NORM = 4


class ThopCounter:
    """What `thop.profile` reports, which the public code prints: parameters and products of the leaf modules it knows.

    It hooks modules, so that products outside of modules (q k^T and P v) do not count, nor do parameters that belong to no leaf module
    (position embeddings). Convolutions and linear layers count without bias, normalisations four per element, activations nothing.
    """

    def __init__(self, *models: nn.Module):
        self.macs = 0
        leaves = [module for model in models for module in model.modules() if not list(module.children())]
        self.parameters = sum(value.numel() for module in dict.fromkeys(leaves) for value in module.parameters(recurse=False))
        self._handles = [module.register_forward_hook(self._count) for module in dict.fromkeys(leaves)]

    def __enter__(self) -> ThopCounter:
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _count(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            self.macs += output.numel() * math.prod(module.weight.shape[1:])
        elif isinstance(module, nn.Linear):
            self.macs += output.numel() * module.in_features
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            self.macs += _THOP_NORM * inputs[0].numel()


def fda_flops(q: Any, k: Any, v: Any, *constants: Any, out_val: Any = None, **named: Any) -> int:
    """FLOPs of one fused attention call from its shapes [B, H, N, D]: the products q k^T and P v."""
    batch, heads, tokens, head_dim = q
    return 2 * 2 * batch * heads * tokens * tokens * head_dim


def count_products(run: Callable[[], object]) -> int:
    """Multiply-accumulates of every matrix product and convolution that `run` makes, our fused operators included."""
    import esat_kernels.attention.library  # noqa: F401  registers the operator

    with FlopCounterMode(display=False, custom_mapping={torch.ops.esat.fda_attention: fda_flops}) as counter:
        run()
    total = counter.get_total_flops()
    if total % 2:
        raise ValueError(f"expected an even number of FLOPs, got {total}")
    return total // 2


def tokens_before(config: ModelConfig) -> list[int]:
    """All tokens that enter each layer's attention: 720, 720, 720, 720, 548, ..."""
    return [config.num_template + count for count in (config.num_search, *config.search_tokens_per_layer()[:-1])]


def tokens_after(config: ModelConfig) -> list[int]:
    """All tokens that enter each layer's MLP: 720, 720, 720, 548, ..."""
    return [config.num_template + count for count in config.search_tokens_per_layer()]


def closed_form(config: ModelConfig, elimination: bool = True) -> int:
    """Every matrix product of a frame by arithmetic: patch embeddings, layers, the eliminations' attention rows, head."""
    if not elimination:
        config = config.replace(elimination_layers=())
    dim, hidden = config.dim, int(config.dim * config.mlp_ratio)
    before, after = tokens_before(config), tokens_after(config)
    patches = (config.num_template + config.num_search) * 3 * config.patch_size**2 * dim
    linear = sum(4 * count * dim**2 for count in before) + sum(2 * count * dim * hidden for count in after)
    attention = sum(2 * count**2 * dim for count in before)
    rows = sum(before[layer] * dim for layer in config.elimination_layers)
    return (
        patches + linear + attention + rows + 3 * head_branch(config, config.num_search) + 5 * config.num_search * config.head_channels // 8
    )


def engine_count(config: ModelConfig) -> int:
    """What the CPU engine really multiplies for a frame.

    Left out, without a change of the result: the template's patch embedding and its q, k, v of layer 0 (made once for a target), the output
    projection of tokens that the same layer eliminates, projection and MLP of the template in the last layer, and offset and size
    anywhere but at the cell where the box is read (a 9 x 9 window of features that four 3 x 3 convolutions shrink to one).
    """
    dim, hidden, depth = config.dim, int(config.dim * config.mlp_ratio), config.depth
    template = config.num_template * (3 * config.patch_size**2 * dim + 3 * dim**2)
    gone = sum(before - after for before, after in zip(tokens_before(config), tokens_after(config), strict=True)) * dim**2
    last = config.num_template * (dim**2 + 2 * dim * hidden) if depth else 0
    widths = _head_widths(config)
    window = sum(9 * inputs * outputs * side**2 for (inputs, outputs), side in zip(itertools.pairwise(widths), (7, 5, 3, 1), strict=True))
    boxes = 2 * (head_branch(config, config.num_search) - window) + 4 * (config.num_search - 1) * widths[-1]
    return closed_form(config) - template - gone - last - boxes


def _head_widths(config: ModelConfig) -> list[int]:
    width = config.head_channels
    return [config.dim, width, width // 2, width // 4, width // 8]


def head_branch(config: ModelConfig, cells: int) -> int:
    """The four 3 x 3 convolutions of one branch of the head."""
    return sum(9 * inputs * outputs * cells for inputs, outputs in itertools.pairwise(_head_widths(config)))
