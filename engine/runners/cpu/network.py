"""One frame's network on the compiled kernels: every buffer is planned at birth, and a frame is a few of their calls a layer.

Work that cannot change the result is left out: the template's patch embedding and its first q, k, v are computed once for a target,
tokens are eliminated before the output projection, the last layer's projection and MLP run for search tokens only, and offset and size
are computed at the one cell where the box is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import esat_kernels
from engine.config import ModelConfig
from engine.errors import ConfigError
from engine.model.token_types import covered
from engine.runners.cpu.head import Head
from engine.runners.cpu.weights import pack_weights
from engine.runners.postprocess import hann_window
from engine.runners.protocol import DTYPES
from engine.weights.io import Weights
from esat_kernels.attention.native import MAX_HEAD_DIM
from esat_kernels.crop.api import PATCH
from esat_kernels.layers.encoder import Encoder
from esat_kernels.linear import native as products
from esat_kernels.linear.packing import INT8_STEP, PANEL, TILE_ROWS, huge_zeros, padded

_NEEDS = {"fp32": "AVX2 or NEON", "bf16": "bf16 and AVX-512 or NEON", "int8": "AVX2 or NEON's dot products"}


class Template(NamedTuple):
    """What a frame needs of its target."""

    tokens: Tensor  # float32 [num_template, dim]
    qkv: Tensor  # [num_template, 3 dim] in the network's dtype, of layer 0


class Layer(NamedTuple):
    """What a frame does in one layer, and with which buffers."""

    attend: Callable[[], object]
    eliminate: Callable[[], object] | None
    kept: Tensor  # int64 [1, search tokens behind the elimination]: their places among those before it
    finish: Callable[[], object]
    tokens: Tensor  # rows [tokens, dim] behind the layer
    num_tokens: int  # of these rows


class Found(NamedTuple):
    """The box at the maximum of score times window."""

    box: tuple[float, float, float, float]  # cx, cy, w, h over the region's side
    score: float
    weighted_score: float
    features: Tensor  # float32 [dim], see `engine.runners.protocol.Observation`


def kernels_in_use() -> str:
    """The set of instructions that the native kernels use; ConfigError if ESAT_CPU names one that this machine lacks."""
    try:
        return esat_kernels.cpu_isa()
    except ValueError as error:
        raise ConfigError(str(error)) from error


def unsupported(config: ModelConfig, dtype: str) -> str | None:
    """Why the native network cannot run this model in "fp32", "bf16" or "int8" on this machine, or None."""
    reason = esat_kernels.backends()["cpu"]
    if reason is not None:
        return reason
    if dtype not in _NEEDS:
        return f"the CPU engine computes in {', '.join(_NEEDS)}, not in {dtype}"
    in_use = kernels_in_use()
    if products.unsupported(activations(dtype), dtype == "int8") is not None:
        return f"{dtype} needs a processor with {_NEEDS[dtype]}, the kernels use {in_use}"
    if config.patch_size != PATCH:
        return f"the CPU engine needs patches of {PATCH} x {PATCH} pixels, got {config.patch_size}"
    if config.head_dim > MAX_HEAD_DIM:
        return f"the CPU engine needs a head dimension of at most {MAX_HEAD_DIM}, got {config.head_dim}"
    unit = INT8_STEP if dtype == "int8" else PANEL
    if config.dim % unit or int(config.dim * config.mlp_ratio) % unit or config.num_template % TILE_ROWS:
        return f"{dtype} needs dim and hidden width in multiples of {unit} and template tokens in multiples of {TILE_ROWS}"
    return None


def activations(dtype: str) -> torch.dtype:
    """What everything but the products of int8 is computed in: for int8, bfloat16 where there is one."""
    if dtype != "int8":
        return DTYPES[dtype]
    return torch.float32 if products.unsupported(torch.bfloat16) else torch.bfloat16


class CpuNetwork:
    """The network of `weights` in "fp32" or "bf16" with float32 sums, residuals and LayerNorms. Serves one thread at a time.

    "int8" is bf16, or fp32 where there is no bf16, but for q, k, v and the MLP: their weights are int8 with one scale an output, and their
    inputs are quantised to eight bits when they are known, with one scale and zero point a token.
    """

    def __init__(self, weights: Weights, dtype: str):
        config = self.config = weights.config
        self.dtype = activations(dtype)
        self._packed = packed = pack_weights(weights.state_dict, config, self.dtype, dtype == "int8")
        tokens = config.num_template + config.num_search
        self._encoder = Encoder(packed.patch, packed.layers, packed.norm, tokens)
        self.head = Head(packed.branches, config)
        self._window = hann_window(config.search_grid)
        rows = padded(tokens, TILE_ROWS)
        self._patches = huge_zeros((padded(config.num_search, TILE_ROWS), 3 * config.patch_size**2), self.dtype)
        self.patches = self._patches[: config.num_search]
        self._tokens = [huge_zeros((rows, config.dim), torch.float32) for _ in range(2)]
        self._attended = [huge_zeros((rows, config.dim), self.dtype) for _ in range(2)]
        self._qkv = huge_zeros((rows, 3 * config.dim), self.dtype)
        self._scores = torch.zeros(1, config.num_search, dtype=torch.float32, device="cpu")
        self._layers = self._plan_layers()
        self.survivors: list[Tensor] = []  # of the last frame: search positions after each elimination

    def _plan_layers(self) -> list[Layer]:
        """An elimination leaves one pair of buffers for the other."""
        config = self.config
        first, count = config.num_template, config.num_template + config.num_search
        (tokens, other), (attended, gathered) = self._tokens, self._attended
        layers: list[Layer] = []
        for keep in config.search_tokens_per_layer():
            heads = (count, -1, config.heads, config.head_dim)
            q, k, v = self._qkv[:count].view(heads).permute(1, 2, 0, 3).unsqueeze(1)  # each [1, heads, count, head_dim]
            out = attended[:count].view(heads).permute(1, 2, 0, 3)
            eliminates = first + keep < count
            scores = self._scores[:, : count - first] if eliminates else None
            attend = esat_kernels.plan_attention(q, k, v, out, scores, first, config.template_token, **config.forces)
            kept, eliminate = torch.zeros(1, keep, dtype=torch.int64, device="cpu"), None
            if scores is not None:
                pairs = [(source[None, :count], target[None, : first + keep]) for source, target in ((attended, gathered), (tokens, other))]
                eliminate = esat_kernels.plan_elimination(scores, kept, pairs, first)
                tokens, other, count = other, tokens, first + keep
            last = len(layers) == config.depth - 1
            finish = self._encoder.plan_finish_layer(
                *(len(layers), gathered if eliminates else attended, tokens, None if last else self._qkv, count, first if last else 0)
            )
            layers.append(Layer(attend, eliminate, kept, finish, tokens, count))
        return layers

    def encode_template(self, patches: Tensor, box: Tensor | None = None) -> Template:
        """patches [num_template, 768] in the network's dtype -> what `run` needs of the target. box: see `engine.model.token_types`."""
        config = self.config
        position = self._packed.template_position
        if self._packed.token_type is not None:
            position = position + covered(config, 1, box)[0, :, None] * self._packed.token_type
        tokens = torch.zeros(config.num_template, config.dim, dtype=torch.float32, device="cpu")
        qkv = torch.zeros(config.num_template, 3 * config.dim, dtype=self.dtype, device="cpu")
        self._encoder.embed(patches, position, tokens, config.num_template)
        self._encoder.qkv(0, tokens, qkv, config.num_template)
        return Template(tokens, qkv)

    def run(self, template: Template, mark: Callable[[str], None] | None = None) -> Found:
        """Find the template in the search region whose patches lie in `patches`. `mark` is told when each kind of work ends."""
        mark = mark or (lambda stage: None)
        config = self.config
        first = config.num_template
        tokens = self._tokens[0]
        tokens[:first].copy_(template.tokens)
        self._qkv[:first].copy_(template.qkv)
        self._encoder.embed(self._patches, self._packed.search_position, tokens[first:], config.num_search)
        mark("embed")
        self._encoder.qkv(0, tokens[first:], self._qkv[first:], config.num_search)
        mark("layers")
        positions = torch.arange(config.num_search, device="cpu")
        self.survivors = []
        for layer in self._layers:
            layer.attend()
            mark("attention")
            if layer.eliminate is not None:
                layer.eliminate()
                positions = positions[layer.kept[0]]
                self.survivors.append(positions)
                mark("elimination")
            layer.finish()
            mark("layers")
        self.head.features.zero_()  # the tokens go back to their places in the head's map
        self._encoder.normalise(layer.tokens[first : layer.num_tokens], self.head.places[positions].to(torch.int32), self.head.features)
        found = self._locate()
        mark("head")
        return found

    def _locate(self) -> Found:
        side = self.config.search_grid
        score = self.head.score()
        weighted = (score * self._window).flatten()
        cell = int(weighted.numpy().argmax())  # the first maximum
        offset, size = self.head.offset_and_size(cell)
        dx, dy, width, height = (*offset.tolist(), *size.tolist())
        box = ((cell % side + dx) / side, (cell // side + dy) / side, width, height)
        return Found(box, float(score.flatten()[cell]), float(weighted[cell]), self.head.surroundings())
