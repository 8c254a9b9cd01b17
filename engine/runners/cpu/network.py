"""One frame's network on the native kernels: every buffer is planned at birth, and a frame is a few native calls a layer.

Work that cannot change the result is left out: the template's patch embedding and its first q, k, v are computed once for a target,
tokens are eliminated before the output projection, the last layer's projection and MLP run for search tokens only, and offset and size
are computed at the one cell where the box is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import esat_kernels
from engine.config import ModelConfig
from engine.errors import ConfigError
from engine.runners.cpu.head import Head
from engine.runners.cpu.weights import INT8_STEP, PANEL, TILE_ROWS, huge_zeros, pack_weights, padded
from engine.runners.postprocess import hann_window
from engine.runners.protocol import DTYPES
from engine.weights.io import Weights
from esat_kernels import _native

_NEEDS = {"fp32": "AVX2 or NEON", "bf16": "bf16 and AVX-512 or NEON", "int8": "AVX2 or NEON's dot products"}


class Template(NamedTuple):
    """What a frame needs of its target."""

    tokens: Tensor  # float32 [num_template, dim]
    qkv: Tensor  # [num_template, 3 dim] in the network's dtype, of layer 0


class Found(NamedTuple):
    """The box at the maximum of score times window."""

    box: tuple[float, float, float, float]  # cx, cy, w, h over the region's side
    score: float
    weighted_score: float
    features: Tensor  # float32 [dim], see `engine.runners.protocol.Observation`


def kernels_in_use() -> str:
    """The set of instructions that the native kernels use; ConfigError if ESAT_CPU names one that this machine lacks."""
    try:
        return _native.cpu_isa()
    except ValueError as error:
        raise ConfigError(str(error)) from error


def unsupported(config: ModelConfig, dtype: str) -> str | None:
    """Why the native network cannot run this model in "fp32", "bf16" or "int8" on this machine, or None."""
    reason = _native.unavailable()
    if reason is not None:
        return reason
    if missing := [name for name in ("fda_forward", "kernels") if not hasattr(_native.library(), name)]:
        return f"the native library was built without {', '.join(missing)}"
    if dtype not in _NEEDS:
        return f"the CPU engine computes in {', '.join(_NEEDS)}, not in {dtype}"
    in_use = kernels_in_use()
    kernels = _kernels(dtype)
    if kernels is None or (dtype == "int8" and not kernels.int8_pair_limit):
        return f"{dtype} needs a processor with {_NEEDS[dtype]}, the kernels use {in_use}"
    unit = INT8_STEP if dtype == "int8" else PANEL
    if config.dim % unit or int(config.dim * config.mlp_ratio) % unit or config.num_template % TILE_ROWS:
        return f"{dtype} needs dim and hidden width in multiples of {unit} and template tokens in multiples of {TILE_ROWS}"
    return None


def activations(dtype: str) -> torch.dtype:
    """What everything but the products of int8 is computed in: for int8, bfloat16 where there is one."""
    if dtype != "int8":
        return DTYPES[dtype]
    return torch.float32 if _native.library().kernels("bfloat16") is None else torch.bfloat16


def _kernels(dtype: str) -> Any:
    return _native.library().kernels(str(activations(dtype)).removeprefix("torch."))


class CpuNetwork:
    """The network of `weights` in "fp32" or "bf16" with float32 sums, residuals and LayerNorms. Serves one thread at a time.

    "int8" is bf16, or fp32 where there is no bf16, but for q, k, v and the MLP: their weights are int8 with one scale an output, and their
    inputs are quantised to eight bits when they are known, with one scale and zero point a token.
    """

    def __init__(self, weights: Weights, dtype: str):
        config = self.config = weights.config
        self.dtype = activations(dtype)
        self._dtype_name = str(self.dtype).removeprefix("torch.")
        self._kernels = _kernels(dtype)
        hidden = int(config.dim * config.mlp_ratio)
        part = _native.library().hidden_part(hidden)
        self._packed = pack_weights(
            weights.state_dict, config, self.dtype, *((part, self._kernels.int8_pair_limit) if dtype == "int8" else ())
        )
        self._patch_values = 3 * config.patch_size**2
        self.head = Head(self._kernels, self._packed.branches, config)
        self._window = hann_window(config.search_grid)
        rows = padded(config.num_template + config.num_search, TILE_ROWS)
        self.patches = huge_zeros((padded(config.num_search, TILE_ROWS), self._patch_values), self.dtype)[: config.num_search]
        self._tokens = [huge_zeros((rows, config.dim), torch.float32) for _ in range(2)]
        self._attended = [huge_zeros((rows, config.dim), self.dtype) for _ in range(2)]
        self._qkv = huge_zeros((rows, 3 * config.dim), self.dtype)
        eight_bits = torch.uint8 if dtype == "int8" else self.dtype
        self._work = [
            huge_zeros((rows, config.dim), eight_bits),  # normalised
            huge_zeros((rows, part), self.dtype),  # hidden
            *([huge_zeros((rows, part), torch.uint8), *huge_zeros((2, rows, 2), torch.int32)] if dtype == "int8" else []),
        ]
        make_encoder = _native.library().int8_encoder if dtype == "int8" else _native.library().encoder
        self._encoder = make_encoder(
            *(self._kernels, config.dim, hidden, self._patch_values, self._packed.patch.data_ptr()),
            [layer.addresses() for layer in self._packed.layers],
            [buffer.data_ptr() for buffer in self._work] + [0] * (5 - len(self._work)),
        )
        self._scores = torch.zeros(config.num_search)
        self.survivors: list[Tensor] = []  # of the last frame: search positions after each elimination

    def encode_template(self, patches: Tensor) -> Template:
        """patches [num_template, 768] in the network's dtype -> what `run` needs of the target."""
        config = self.config
        tokens = torch.zeros(config.num_template, config.dim)
        qkv = torch.zeros(config.num_template, 3 * config.dim, dtype=self.dtype)
        self._embed(patches, config.num_template, self._packed.template_position, tokens)
        self._encoder.qkv(0, tokens.data_ptr(), config.num_template, qkv.data_ptr())
        return Template(tokens, qkv)

    def run(self, template: Template, mark: Callable[[str], None] | None = None) -> Found:
        """Find the template in the search region whose patches lie in `patches`. `mark` is told when each kind of work ends."""
        mark = mark or (lambda stage: None)
        config = self.config
        first = config.num_template
        tokens, other = self._tokens
        tokens[:first].copy_(template.tokens)
        self._qkv[:first].copy_(template.qkv)
        self._embed(self.patches, config.num_search, self._packed.search_position, tokens[first:])
        mark("embed")
        self._encoder.qkv(0, tokens[first:].data_ptr(), config.num_search, self._qkv[first:].data_ptr())
        mark("layers")
        count, positions = first + config.num_search, torch.arange(config.num_search)
        self.survivors = []
        for layer, keep in enumerate(config.search_tokens_per_layer()):
            eliminate = first + keep < count
            attended = self._attend(count, eliminate)
            mark("attention")
            if eliminate:
                kept = esat_kernels.select_tokens(self._scores[None, : count - first], keep)[0]
                for source, target in ((attended, self._attended[1]), (tokens, other)):
                    esat_kernels.gather_tokens(source[None, :count], kept[None], first, out=target[None, : first + keep])
                attended, tokens, other = self._attended[1], other, tokens
                positions = positions[kept]
                self.survivors.append(positions)
                count = first + keep
                mark("elimination")
            last = layer == config.depth - 1
            self._encoder.finish_layer(
                *(layer, attended.data_ptr(), tokens.data_ptr(), first if last else 0, count, 0 if last else self._qkv.data_ptr()),
            )
            mark("layers")
        self._store_features(tokens[first:count], positions)
        found = self._locate()
        mark("head")
        return found

    def _embed(self, patches: Tensor, count: int, position: Tensor, tokens: Tensor) -> None:
        self._encoder.embed(patches.data_ptr(), count, position.data_ptr(), tokens.data_ptr())

    def _attend(self, count: int, with_scores: bool) -> Tensor:
        """Attention over the first `count` tokens of `_qkv`; the elimination scores, if asked for, go to `_scores`."""
        config = self.config
        dim, out = config.dim, self._attended[0]
        shape = (1, config.heads, count, config.head_dim)
        constants = (config.alpha, config.beta, config.force_delta, config.head_dim**-0.5)
        qkv, size = self._qkv.data_ptr(), self._qkv.element_size()
        strides = (0, config.head_dim, 3 * dim)  # of batch, head and token: q, k and v lie beside each other in a row
        _native.library().fda_forward(
            *(self._dtype_name, shape, constants, qkv, strides, qkv + dim * size, strides, qkv + 2 * dim * size, strides),
            *(out.data_ptr(), (0, config.head_dim, dim), 0, self._scores.data_ptr() if with_scores else 0),
            *(config.num_template, config.template_token if with_scores else -1),
        )
        return out

    def _store_features(self, tokens: Tensor, positions: Tensor) -> None:
        """The final LayerNorm, and the tokens back at their places in the head's map, zeros elsewhere."""
        features = self.head.features
        features.zero_()
        places = self.head.places[positions].to(torch.int32)
        self._kernels.normalise_to_rows(
            *(tokens.data_ptr(), tokens.shape[0], self.config.dim, self._packed.norm_gain.data_ptr(), self._packed.norm_bias.data_ptr()),
            *(places.data_ptr(), features.data_ptr()),
        )

    def _locate(self) -> Found:
        side = self.config.search_grid
        score = self.head.score()
        weighted = (score * self._window).flatten()
        cell = int(weighted.numpy().argmax())  # the first maximum
        offset, size = self.head.offset_and_size(cell)
        dx, dy, width, height = (*offset.tolist(), *size.tolist())
        box = ((cell % side + dx) / side, (cell // side + dy) / side, width, height)
        return Found(box, float(score.flatten()[cell]), float(weighted[cell]), self.head.surroundings())
