"""Force-directed attention by the Triton kernels: checks, launch shapes, calls. Triton is imported at the first call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from esat_kernels import _triton, _tuned
from esat_kernels._triton import cdiv, multiprocessors, shared_memory
from esat_kernels._triton import unavailable as unavailable
from esat_kernels.attention import triton_tiles
from esat_kernels.attention.common import Forces, Scores, check_lse, empty_out, gpu_unsupported
from esat_kernels.attention.triton_tiles import Tiles

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_MAX_OFFSET = 2**31  # offsets inside one head are 32-bit; those of batch and head are 64-bit


def unsupported(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    """Why these kernels cannot take q, k, v, or None."""
    reason = _triton.unsupported(q, k, v, differentiable=True)
    if reason is None:
        reason = gpu_unsupported(q, _DTYPES, "bfloat16, float16 or float32", range(1, 129), "lie in [1, 128]")
    if reason is not None:
        return reason
    if q[0].numel() >= _MAX_OFFSET:
        return f"one item of the batch must have less than 2^31 elements, got {q[0].numel()}"
    for name, tensor in (("query", q), ("key", k), ("value", v)):
        reach = (tensor.shape[2] - 1) * tensor.stride(2) + (tensor.shape[3] - 1) * tensor.stride(3)
        if reach >= _MAX_OFFSET:
            return f"one head of the {name} must span less than 2^31 elements, got {reach}"
    return None


def _options(q: Tensor, forces: Forces, tiles: Tiles) -> dict[str, Any]:
    """The compile-time arguments that all kernels with tiles share."""
    return {
        "HEAD_DIM": q.shape[-1],
        "BLOCK_D": triton_tiles.padded(q.shape[-1]),
        "BLOCK_M": tiles.block_m,
        "BLOCK_N": tiles.block_n,
        "ATTRACT": forces.alpha > 0,
        "num_warps": tiles.num_warps,
        "num_stages": tiles.num_stages,
        "enable_fp_fusion": True,
    }


def forward(q: Tensor, k: Tensor, v: Tensor, forces: Forces, wanted: Scores, tiles: Tiles | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """out [B, H, N, D] (stored as [B, N, H, D]), the wanted scores, lse float32 [B, H, N]."""
    from esat_kernels.attention import triton_forward as kernels

    batch, heads, tokens, head_dim = q.shape
    out, scores = empty_out(q), wanted.empty(q)
    lse = q.new_empty((batch, heads, tokens), dtype=torch.float32)
    if tiles is None:
        device = _tuned.device_name(q.device)
        limits = multiprocessors(q.device), device, shared_memory(q.device)
        tiles = triton_tiles.forward_tiles(tokens, batch * heads, head_dim, q.dtype, *limits)
    kernels.forward_kernel[(cdiv(tokens, tiles.block_m), batch * heads)](
        q, k, v, out, lse, *q.stride(), *k.stride(), *v.stride(), *out.stride(), heads, tokens, *forces,
        REPEL=forces.beta * forces.delta > 0, **_options(q, forces, tiles),
    )  # fmt: skip
    if scores.numel():
        kernels.scores_kernel[(cdiv(scores.shape[1], triton_tiles.SCORES_BLOCK), batch)](
            q, k, lse, scores, *q.stride(), *k.stride(), heads, tokens, *wanted, *forces,
            HEAD_DIM=head_dim, BLOCK_D=triton_tiles.padded(head_dim), BLOCK_N=triton_tiles.SCORES_BLOCK,
            num_warps=triton_tiles.SCORES_WARPS, enable_fp_fusion=True,
        )  # fmt: skip
    return out, scores, lse


def backward(dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, forces: Forces) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk, dv [B, H, N, D] (stored as [B, N, H, D]) from dout [B, H, N, D] of any strides, the forward's out and its lse."""
    from esat_kernels.attention import triton_backward as kernels

    check_lse(lse, q)
    batch, heads, tokens, head_dim = q.shape
    dq, dk, dv = empty_out(q), empty_out(q), empty_out(q)
    lse = lse.contiguous()
    row = torch.empty_like(lse)
    inputs = (*dout.stride(), *q.stride(), *k.stride(), *v.stride())
    sizes = (heads, tokens, *forces)
    tiles = triton_tiles.queries_tiles(head_dim, q.dtype)
    kernels.queries_kernel[(cdiv(tokens, tiles.block_m), batch * heads)](
        dout, q, k, v, out, lse, dq, row, *inputs, *out.stride(), *dq.stride(), *sizes, **_options(q, forces, tiles)
    )
    tiles = triton_tiles.keys_tiles(head_dim, q.dtype)
    kernels.keys_kernel[(cdiv(tokens, tiles.block_n), batch * heads)](
        dout, q, k, v, lse, row, dk, dv, *inputs, *dk.stride(), *sizes, **_options(q, forces, tiles)
    )
    return dq, dk, dv
