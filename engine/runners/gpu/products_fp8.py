"""Projection and MLP with the MLP's products in e4m3: what lies between them has eight bits and a scale for each row and group of columns."""

from __future__ import annotations

import torch
from torch import Tensor

import esat_kernels
from engine.runners.gpu.products import NORM_EPS, Stream


class Fp8Rest:
    """As `Rest`. The projection stays in bfloat16 and leaves the stream in eight bits; the MLP's second product leaves it for q, k and v, in sixteen.

    Weights [N, K] in float32 and biases [N], LayerNorm folded in; dim and the hidden width are multiples of 128.
    """

    def __init__(self, projection: tuple[Tensor, Tensor], mlp_in: tuple[Tensor, Tensor], mlp_out: tuple[Tensor, Tensor], backend: str):
        self._projection = projection[0].bfloat16()
        self._mlp_in, self._mlp_out = (esat_kernels.scaled_weight(weight) for weight, _ in (mlp_in, mlp_out))
        self._biases = [bias.bfloat16() for _, bias in (projection, mlp_in, mlp_out)]
        self._backend = backend

    def __call__(self, attended: Tensor, tokens: Tensor, last: bool) -> Stream:
        middle, out = torch.empty_like(tokens), torch.empty_like(tokens)
        stream = esat_kernels.scaled_memory(tokens, tokens.shape[2], statistics=True)
        hidden = esat_kernels.scaled_memory(tokens, self._mlp_in.values.shape[0], statistics=False)
        behind = None if last else esat_kernels.centred_memory(out)
        first, second, third = self._biases
        linear = esat_kernels.linear_fp8
        linear(attended, self._projection, first, residual=tokens, out=middle, leave=stream, backend=self._backend)
        linear(stream, self._mlp_in, second, norm_eps=NORM_EPS, activation="gelu", leave=hidden, backend=self._backend)
        linear(hidden, self._mlp_out, third, residual=middle, out=out, leave=behind, backend=self._backend)
        return Stream(out, behind)
