"""One frame's network for a batch of targets: fixed shapes, no value read by the host, so that a CUDA graph can hold all of it.

Work that cannot change the result is left out: the template's patch embedding and its first q, k, v are computed once for a target, tokens
are eliminated before the output projection, and the last layer's projection and MLP run for search tokens only.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

import esat_kernels
from engine.model.token_types import covered
from engine.runners.gpu.choices import choices_for
from engine.runners.gpu.head import Head, Maps
from engine.runners.gpu.products import NORM_EPS
from engine.runners.gpu.weights import fold_weights
from engine.weights.io import Weights


class Template(NamedTuple):
    """What a frame needs of its target; with a leading batch dimension where several lie together."""

    tokens: Tensor  # float32 [num_template, dim]
    qkv: Tensor  # [num_template, 3 dim], of layer 0


class Seen(NamedTuple):
    """What the network says of a batch."""

    maps: Maps
    kept: Tensor | None  # int64 [B, n], search positions that survived every elimination, ascending; None without elimination
    features: Tensor  # [B, F * F, dim], zeros where eliminated


@dataclasses.dataclass(frozen=True)
class Kernels:
    """Backends of the operations: attention, and everything else."""

    attention: str
    operations: str

    @classmethod
    def of(cls, backend: str) -> Kernels:
        """ "triton" is all Triton, "cuda" the CUDA attention among Triton kernels, "reference" plain PyTorch."""
        return cls(backend, "triton" if backend == "cuda" else backend)


class GpuNetwork:
    """The network of `weights` in `dtype`, with residuals, LayerNorms and the head's last layer in float32. Holds no state of a frame, but
    counters of its products, which are zero between launches: its work runs on one queue.

    fp8: the MLPs multiply e4m3; dtype is bfloat16 then.
    """

    def __init__(self, weights: Weights, device: torch.device, dtype: torch.dtype, kernels: Kernels, fp8: bool = False):
        config = self.config = weights.config
        self.device, self.dtype, self.kernels = device, dtype, kernels
        choices = choices_for(device)
        self._weights = fold_weights(weights.state_dict, config, device, dtype, choices, kernels.operations, fp8)
        self._head = Head(self._weights.head, config.search_grid, choices.convolutions, kernels.operations)
        self.patch_values = 3 * config.patch_size**2

    def encode_template(self, patches: Tensor, box: Tensor | None = None) -> Template:
        """patches [num_template, 768] in the network's dtype. box: see `engine.model.token_types`."""
        position = self._weights.template_position
        if self._weights.token_type is not None:
            position = position + covered(self.config, 1, box)[0, :, None].to(self.device) * self._weights.token_type
        stream = self._weights.patch.stream(patches[None], position[None])
        return Template(stream.tokens[0], self._weights.layers[0].qkv(stream)[0])

    def inputs(self, batch: int) -> Template:
        """Memory for `run`, zeroed: tokens float32 [B, N, dim] and qkv [B, N, 3 dim], whose first num_template rows are the templates'."""
        config = self.config
        shape = (batch, config.num_template + config.num_search)
        return Template(
            torch.zeros(*shape, config.dim, dtype=torch.float32, device=self.device),
            torch.zeros(*shape, 3 * config.dim, device=self.device, dtype=self.dtype),
        )

    def run(self, patches: Tensor, inputs: Template) -> Seen:
        """Find the templates in the search regions: patches [B, num_search, 768]; the search rows of `inputs` are overwritten."""
        config, layers = self.config, self._weights.layers
        first = config.num_template
        tokens, qkv = inputs
        with record_function("embed"):
            position = self._weights.search_position.expand(len(patches), -1, -1)
            search = self._weights.patch.stream(patches, position, tokens[:, first:])
            layers[0].qkv(search, out=qkv[:, first:])
        kept: Tensor | None = None
        norms: Tensor | None = None  # of this layer's keys, where the product before has left them
        for index, (layer, keep) in enumerate(zip(layers, config.search_tokens_per_layer(), strict=True)):
            eliminate = keep < tokens.shape[1] - first
            with record_function("attention"):
                attended, scores = self._attend(qkv, eliminate, norms)
            if eliminate:
                with record_function("elimination"):
                    kept, tokens, attended = esat_kernels.eliminate_tokens(
                        scores, keep, tokens, attended, first, backend=self.kernels.operations, places=kept
                    )
            last = index == len(layers) - 1
            if last:  # the head reads search tokens only
                attended, tokens = attended[:, first:], tokens[:, first:]
            with record_function("projection and MLP"):
                stream = layer.rest(attended, tokens, last)
                tokens = stream.tokens
            if not last:
                with record_function("qkv"):
                    if self.kernels.attention == "cuda":  # others make the norms from the keys that they read anyway
                        qkv, norms = layers[index + 1].qkv.with_key_norms(stream, config.heads)
                    else:
                        qkv = layers[index + 1].qkv(stream)
        with record_function("head"):
            features = self._features(tokens, kept)
            return Seen(self._head(features), kept, features)

    def _attend(self, qkv: Tensor, with_scores: bool, norms: Tensor | None) -> tuple[Tensor, Tensor]:
        """qkv [B, N, 3 dim], |k|^2 [B, H, N] where it is known -> [B, N, dim], and if asked for the elimination scores [B, N - num_template]
        (else an empty tensor).
        """
        config = self.config
        batch, count, _ = qkv.shape
        q, k, v = qkv.view(batch, count, 3, config.heads, config.head_dim).permute(2, 0, 3, 1, 4)
        scores = qkv.new_empty(0)
        if with_scores:
            out, scores = esat_kernels.fda_attention_with_scores(
                q, k, v, config.num_template, config.template_token, **config.forces, backend=self.kernels.attention, key_norms=norms
            )
        else:
            out = esat_kernels.fda_attention(q, k, v, **config.forces, backend=self.kernels.attention, key_norms=norms)
        return out.transpose(1, 2).reshape(batch, count, config.dim), scores

    def _features(self, tokens: Tensor, kept: Tensor | None) -> Tensor:
        """The final LayerNorm, and the tokens back at their places: [B, F * F, dim], zeros where eliminated."""
        gain, bias = self._weights.norm_gain, self._weights.norm_bias
        return esat_kernels.head_features(
            tokens, gain, bias, NORM_EPS, kept, self.config.num_search, self.dtype, backend=self.kernels.operations
        )
