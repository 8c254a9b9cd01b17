"""The torch.library operators behind `api`: one forward and one backward, each implemented by every backend.

`torch.compile` and `opcheck` see these operators; the fake kernels fix the layouts that all backends return.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from esat_kernels import _triton
from esat_kernels.attention import cuda, native, reference, triton


def _empty_out(q: Tensor) -> Tensor:
    """out [B, H, N, D], stored as [B, N, H, D]: the layout that the output projection reads without a copy."""
    batch, heads, tokens, head_dim = q.shape
    return q.new_empty(batch, tokens, heads, head_dim).transpose(1, 2)


@torch.library.custom_op("esat::fda_attention", mutates_args=())
def fda_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: float,
    beta: float,
    delta: float,
    scale: float,
    num_template: int,
    template_token: int,
    backend: str,
    with_lse: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """out [B, H, N, D], elimination scores float32 [B, N - num_template] (empty [B, 0] if template_token < 0), lse float32 [B, H, N].

    Only a backward needs the lse: without it the result is empty [B, H, 0], and the CPU kernels are faster.
    """
    if backend == "cpu":
        return native.forward(q, k, v, alpha, beta, delta, scale, num_template, template_token, with_lse)
    if backend == "triton":
        with _triton.on_device_of(q):
            out, scores, lse = triton.forward(q, k, v, alpha, beta, delta, scale, num_template, template_token)
    elif backend == "cuda":
        out, scores, lse = cuda.forward(q, k, v, alpha, beta, delta, scale, num_template, template_token)
    else:
        out = _empty_out(q)
        value, lse = reference.attention(q, k, v, alpha, beta, delta, scale)
        out.copy_(value)
        scores = q.new_empty((q.shape[0], 0), dtype=torch.float32)
        if template_token >= 0:
            scores = reference.elimination_scores(q, k, alpha, beta, delta, scale, num_template, template_token)
    return out, scores, lse if with_lse else lse.new_empty((*lse.shape[:2], 0))


@fda_forward.register_fake
def _(q, k, v, alpha, beta, delta, scale, num_template, template_token, backend, with_lse=True):  # type: ignore[no-untyped-def]
    batch, heads, tokens, _ = q.shape
    columns = 0 if template_token < 0 else tokens - num_template
    wide = torch.promote_types(q.dtype, torch.float32)
    lse = q.new_empty((batch, heads, tokens if with_lse else 0), dtype=wide)
    return _empty_out(q), q.new_empty((batch, columns), dtype=torch.float32), lse


@torch.library.custom_op("esat::fda_attention_backward", mutates_args=())
def fda_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    alpha: float,
    beta: float,
    delta: float,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk, dv [B, H, N, D] (stored as [B, N, H, D]); recomputes the probabilities from lse."""
    if backend == "cpu":
        return native.backward(dout, q, k, v, out, lse, alpha, beta, delta, scale)
    if backend == "triton":
        with _triton.on_device_of(q):
            return triton.backward(dout, q, k, v, out, lse, alpha, beta, delta, scale)
    grads = reference.backward(dout, q, k, v, out, lse, alpha, beta, delta, scale)
    stored = [_empty_out(q) for _ in grads]
    for target, grad in zip(stored, grads, strict=True):
        target.copy_(grad)
    return stored[0], stored[1], stored[2]


@fda_backward.register_fake
def _(dout, q, k, v, out, lse, alpha, beta, delta, scale, backend):  # type: ignore[no-untyped-def]
    return _empty_out(q), _empty_out(k), _empty_out(v)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v, alpha, beta, delta, scale, _, _, backend, _ = inputs
    out, scores, lse = output
    ctx.mark_non_differentiable(scores, lse)
    ctx.save_for_backward(q, k, v, out, lse)
    ctx.constants = (alpha, beta, delta, scale, backend)


def _backward(ctx: Any, dout: Tensor, dscores: Tensor, dlse: Tensor) -> tuple[Any, ...]:
    q, k, v, out, lse = ctx.saved_tensors
    dq, dk, dv = fda_backward(dout, q, k, v, out, lse, *ctx.constants)
    return dq, dk, dv, None, None, None, None, None, None, None, None


fda_forward.register_autograd(_backward, setup_context=_setup_context)
