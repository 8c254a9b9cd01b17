"""The torch.library operators behind `api`: one forward and one backward, each implemented by every backend.

`torch.compile` and `opcheck` see these operators; the fake kernels fix the layouts that all backends return.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from esat_kernels import _triton
from esat_kernels.attention import cuda, native, reference, triton
from esat_kernels.attention.common import Forces, Scores, empty_out


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
    key_norms: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """out [B, H, N, D], elimination scores float32 [B, N - num_template] (empty [B, 0] if template_token < 0), lse float32 [B, H, N].

    Only a backward needs the lse: without it the result is empty [B, H, 0], the CPU kernels are faster, and a backward costs a forward more.
    """
    forces, wanted = Forces(alpha, beta, delta, scale), Scores(num_template, template_token)
    if backend == "cpu":
        return native.forward(q, k, v, forces, wanted, with_lse)
    if backend == "triton":
        with _triton.on_device_of(q):
            out, scores, lse = triton.forward(q, k, v, forces, wanted)
    elif backend == "cuda":
        if with_lse:
            raise NotImplementedError("attention: the CUDA kernel keeps no log-sum-exp, use triton")
        out, scores = cuda.forward(q, k, v, forces, wanted, key_norms=key_norms)
        return out, scores, q.new_empty((*q.shape[:2], 0), dtype=torch.float32)
    else:
        value, lse = reference.attention(q, k, v, forces)
        out, scores = empty_out(q).copy_(value), reference.elimination_scores(q, k, forces, wanted)
    return out, scores, lse if with_lse else lse.new_empty((*lse.shape[:2], 0))


@fda_forward.register_fake
def _(q, k, v, alpha, beta, delta, scale, num_template, template_token, backend, with_lse=True, key_norms=None):  # type: ignore[no-untyped-def]
    batch, heads, tokens, _ = q.shape
    wide = torch.promote_types(q.dtype, torch.float32)
    lse = q.new_empty((batch, heads, tokens if with_lse else 0), dtype=wide)
    return empty_out(q), Scores(num_template, template_token).empty(q), lse


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
    """dq, dk, dv [B, H, N, D] (stored as [B, N, H, D]); recomputes the probabilities from lse [B, H, N]. ValueError for another lse."""
    forces = Forces(alpha, beta, delta, scale)
    if backend == "cpu":
        return native.backward(dout, q, k, v, out, lse, forces)
    if backend == "triton":
        with _triton.on_device_of(q):
            return triton.backward(dout, q, k, v, out, lse, forces)
    dq, dk, dv = (empty_out(q).copy_(grad) for grad in reference.backward(dout, q, k, v, out, lse, forces))
    return dq, dk, dv


@fda_backward.register_fake
def _(dout, q, k, v, out, lse, alpha, beta, delta, scale, backend):  # type: ignore[no-untyped-def]
    return empty_out(q), empty_out(k), empty_out(v)


_BACKEND = 3 + len(Forces._fields) + len(Scores._fields)  # its place among the inputs


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    out, scores, lse = output
    ctx.mark_non_differentiable(scores, lse)
    ctx.save_for_backward(*inputs[:3], out, lse)
    ctx.inputs, ctx.forces, ctx.backend = len(inputs), inputs[3 : 3 + len(Forces._fields)], inputs[_BACKEND]


def _backward(ctx: Any, dout: Tensor, dscores: Tensor, dlse: Tensor) -> tuple[Any, ...]:
    q, k, v, out, lse = ctx.saved_tensors
    if lse.shape[-1] != q.shape[2]:  # a call that was captured (torch.export, torch.jit.trace) before anything needed a gradient
        lse = fda_forward(q, k, v, *ctx.forces, *Scores(), ctx.backend, True)[2]
    grads = fda_backward(dout, q, k, v, out, lse, *ctx.forces, ctx.backend)
    return *grads, *[None] * (ctx.inputs - len(grads))


fda_forward.register_autograd(_backward, setup_context=_setup_context)
