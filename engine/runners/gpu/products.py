"""A product with what surrounds it in a transformer layer: by one kernel of ours, or by PyTorch's calls around cuBLASLt."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

import esat_kernels
from engine.runners.gpu.choices import Choices

NORM_EPS = 1e-6


class Product:
    """gelu?(norm?(x) weight^T + bias) + residual?; results are in the weight's dtype, with a residual in the residual's (float32).

    norm: LayerNorm's statistics; gain and bias are folded into `weight` [N, K] and `bias` [N].
    """

    def __init__(self, weight: Tensor, bias: Tensor, choices: Choices, backend: str, norm: bool = False, gelu: bool = False):
        self._weight, self._bias = weight, bias
        self._choices, self._backend = choices, backend
        self._norm, self._gelu = norm, gelu

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x [..., K] and residual [..., N] -> [..., N]."""
        outputs, inputs = self._weight.shape
        rows = x.reshape(-1, inputs)
        added = None if residual is None else residual.reshape(-1, outputs)
        run = self._fused if self._choices.of_product(rows.shape[0], outputs, inputs) == "fused" else self._library
        return run(rows, added).view(*x.shape[:-1], outputs)

    def _fused(self, x: Tensor, residual: Tensor | None) -> Tensor:
        return esat_kernels.linear(
            x,
            self._weight,
            self._bias,
            norm_eps=NORM_EPS if self._norm else None,
            activation="gelu" if self._gelu else None,
            residual=residual,
            dtype=self._weight.dtype if residual is None else residual.dtype,
            backend=self._backend,
        )

    def _library(self, x: Tensor, residual: Tensor | None) -> Tensor:
        if self._norm:
            x = functional.layer_norm(x, x.shape[-1:], eps=NORM_EPS)
        out = functional.linear(x.to(self._weight.dtype), self._weight, self._bias)
        if self._gelu:
            out = functional.gelu(out)  # exact: cuBLASLt's own epilogue is the tanh approximation
        return out if residual is None else torch.add(residual, out)
