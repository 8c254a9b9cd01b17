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

    def with_key_norms(self, x: Tensor, heads: int) -> tuple[Tensor, Tensor | None]:
        """The product of q, k and v, [..., N, K] -> [..., N, 3 dim], and |k|^2 float32 [..., heads, N], or None where it is not fused."""
        outputs, inputs = self._weight.shape
        rows = x.reshape(-1, inputs)
        if self._choices.of_product(rows.shape[0], outputs, inputs) != "fused" or self._weight.dtype == torch.float32:
            return self(x), None
        dim = outputs // 3
        out, norms = esat_kernels.linear_with_squares(
            rows,
            self._weight,
            self._bias,
            first=dim,
            width=dim // heads,
            groups=heads,
            norm_eps=NORM_EPS if self._norm else None,
            dtype=self._weight.dtype,
            backend=self._backend,
        )
        return out.view(*x.shape[:-1], outputs), norms.view(*x.shape[:-1], heads).transpose(-1, -2)

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
