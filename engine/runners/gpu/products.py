"""A product with what surrounds it in a transformer layer: by one kernel of ours, or by PyTorch's calls around cuBLASLt."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

import esat_kernels
from engine.runners.gpu.choices import Choices
from esat_kernels import Centred

NORM_EPS = 1e-6


class Stream(NamedTuple):
    """The residual stream between two products."""

    tokens: Tensor  # float32 [B, N, dim]
    centred: Centred | None = (
        None  # what the product in front left for the one behind; None: its rows are normalised by a kernel of their own
    )


class Product:
    """gelu?(norm?(x) weight^T + bias) + residual?; results are in the weight's dtype, with a residual in the residual's (float32).

    norm: LayerNorm's statistics; gain and bias are folded into `weight` [N, K] and `bias` [N]. counters: `esat_kernels.meeting_counters`, common to
    products that run one after another.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        choices: Choices,
        backend: str,
        norm: bool = False,
        gelu: bool = False,
        counters: Tensor | None = None,
    ):
        self._weight, self._bias = weight, bias
        self._choices, self._backend, self._counters = choices, backend, counters
        self._norm, self._activation = norm, "gelu" if gelu else None
        self._group_sums: Tensor | None = None
        if norm and weight.dtype == torch.bfloat16 and weight.shape[1] % 16 == 0:
            self._group_sums = esat_kernels.group_sums(weight)

    def __call__(self, x: Tensor | Stream, residual: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """x [B, n, K] and residual [B, n, N] -> [B, n, N], in `out` if given: rows adjacent in themselves, items may lie apart."""
        tokens = x.tokens if isinstance(x, Stream) else x
        if not self._is_fused(tokens):
            return self._library(tokens, residual, out)
        given = self._given(x)
        if given is None:  # normalised by a kernel of its own
            return _into(out, self._fused(tokens, residual))
        out = self._memory(tokens, residual) if out is None else out
        self._product(out, given, residual=residual)
        return out

    def stream(self, x: Tensor, residual: Tensor, out: Tensor | None = None) -> Stream:
        """The product as a residual stream: with what its next product needs of it, where that can be had."""
        if not self._is_fused(x) or self._weight.dtype != torch.bfloat16:
            return Stream(self(x, residual, out))
        out = self._memory(x, residual) if out is None else out
        centred = esat_kernels.centred_memory(out)
        self._product(out, x, residual=residual, leave=centred)
        return Stream(out, centred)

    def with_key_norms(self, x: Stream, heads: int) -> tuple[Tensor, Tensor | None]:
        """The product of q, k and v, [B, n, K] -> [B, n, 3 dim], and |k|^2 float32 [B, heads, n], or None where it is not fused."""
        batch, count, inputs = x.tokens.shape
        if not self._is_fused(x.tokens) or self._weight.dtype == torch.float32:
            return self(x), None
        dim = self._weight.shape[0] // 3
        given = self._given(x)
        if given is None:
            out, norms = esat_kernels.linear_with_squares(
                x.tokens.reshape(-1, inputs),
                self._weight,
                self._bias,
                first=dim,
                width=dim // heads,
                groups=heads,
                norm_eps=NORM_EPS if self._norm else None,
                dtype=self._weight.dtype,
                backend=self._backend,
            )
            out = out.view(batch, count, -1)
        else:
            out, norms = self._memory(x.tokens, None), x.tokens.new_empty(batch * count, heads)
            self._product(out, given, squares=norms, first=dim, width=dim // heads)
        return out, norms.view(batch, count, heads).transpose(1, 2)

    def _is_fused(self, x: Tensor) -> bool:
        outputs, inputs = self._weight.shape
        return self._choices.of_product(x.numel() // inputs, outputs, inputs) == "fused"

    def _given(self, x: Tensor | Stream) -> Tensor | Centred | None:
        """What the kernel reads of x; None where the rows have to be normalised for it."""
        if not self._norm:
            return x.tokens if isinstance(x, Stream) else x
        return x.centred if isinstance(x, Stream) and self._group_sums is not None else None

    def _memory(self, x: Tensor, residual: Tensor | None) -> Tensor:
        return x.new_empty(*x.shape[:2], self._weight.shape[0], dtype=self._weight.dtype if residual is None else residual.dtype)

    def _product(self, out: Tensor, x: Tensor | Centred, **around: Any) -> None:
        if isinstance(x, Centred):
            around |= {"group_sums": self._group_sums, "norm_eps": NORM_EPS}
        around |= {"activation": self._activation, "counters": self._counters, "backend": self._backend}
        esat_kernels.linear_into(out, x, self._weight, self._bias, **around)

    def _fused(self, x: Tensor, residual: Tensor | None) -> Tensor:
        outputs, inputs = self._weight.shape
        rows = esat_kernels.linear(
            x.reshape(-1, inputs),
            self._weight,
            self._bias,
            norm_eps=NORM_EPS if self._norm else None,
            activation=self._activation,
            residual=None if residual is None else residual.reshape(-1, outputs),
            dtype=self._weight.dtype if residual is None else residual.dtype,
            backend=self._backend,
        )
        return rows.view(*x.shape[:2], outputs)

    def _library(self, x: Tensor, residual: Tensor | None, out: Tensor | None) -> Tensor:
        if self._norm:
            x = functional.layer_norm(x, x.shape[-1:], eps=NORM_EPS)
        found = functional.linear(x.to(self._weight.dtype), self._weight, self._bias)
        if self._activation is not None:
            found = functional.gelu(found)  # exact: cuBLASLt's own epilogue is the tanh approximation
        return _into(out, found) if residual is None else torch.add(residual, found, out=out)


def _into(out: Tensor | None, found: Tensor) -> Tensor:
    return found if out is None else out.copy_(found)


class Rest:
    """What follows attention in a layer: output projection and MLP."""

    def __init__(self, projection: Product, mlp_in: Product, mlp_out: Product):
        self.products = (projection, mlp_in, mlp_out)

    def __call__(self, attended: Tensor, tokens: Tensor, last: bool) -> Stream:
        """attended [B, n, dim] and the residual stream, float32, of the same shape -> the stream behind the layer; last: no product follows."""
        projection, mlp_in, mlp_out = self.products
        stream = projection.stream(attended, tokens)
        hidden = mlp_in(stream)
        return Stream(mlp_out(hidden, stream.tokens)) if last else mlp_out.stream(hidden, stream.tokens)
