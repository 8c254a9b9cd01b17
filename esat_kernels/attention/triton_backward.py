# mypy: disallow-untyped-defs=False
# ruff: noqa: N803  (the compile-time arguments of a Triton kernel are written in capitals)
"""Force-directed attention backward in Triton: two kernels that recompute the probabilities from the log-sum-exp; no atomics, no N x N matrix.

With P = exp(A - lse), G = P (dP - rowsum(dP P)), dP = dout v^T and f = beta + alpha exp(-r):
    dS = G (scale + 2 delta f),  dq = dS k - 2 delta q rowsum(G f),  dk = dS^T q - 2 delta k colsum(G f),  dv = P^T dout.
"""

from __future__ import annotations

import triton
import triton.language as tl

from esat_kernels.attention.triton_forward import LOG2E, attraction, load_tile, squared_norm


@triton.jit
def _gradients(
    rows, columns, row_values, column_values, key_norm, row_norm, column_norm, lse, row, alpha, beta, delta, scale, ATTRACT: tl.constexpr
):
    """P, dS and G f of a tile [R, C], whichever way round it lies: rows and columns are q and k, row_values and column_values dout and v, or
    both the other way; row_norm and column_norm are |rows|^2, |columns|^2; key_norm, lse (+ beta delta |q|^2) and row broadcast to the tile.
    """
    product = tl.dot(rows, tl.trans(columns), input_precision="ieee")
    factor = scale + 2.0 * beta * delta
    logit = factor * product - (beta * delta) * key_norm
    if ATTRACT:
        attracted = alpha * attraction(product, row_norm, column_norm, delta)
        logit += attracted
    probability = tl.exp2((logit - lse) * LOG2E)
    g = probability * (tl.dot(row_values, tl.trans(column_values), input_precision="ieee") - row)
    if ATTRACT:
        # Without rounding the beta part of this sum is zero. With it, where k is close to q it cancels an error of the product with k.
        return probability, g * (factor + 2.0 * delta * attracted), g * (beta + attracted)
    else:
        return probability, g * factor, g * beta


@triton.jit(do_not_specialize=["heads", "tokens"])
def queries_kernel(
    dout_ptr,
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    lse_ptr,
    dq_ptr,
    row_ptr,
    dout_stride_b,
    dout_stride_h,
    dout_stride_n,
    dout_stride_d,
    q_stride_b,
    q_stride_h,
    q_stride_n,
    q_stride_d,
    k_stride_b,
    k_stride_h,
    k_stride_n,
    k_stride_d,
    v_stride_b,
    v_stride_h,
    v_stride_n,
    v_stride_d,
    out_stride_b,
    out_stride_h,
    out_stride_n,
    out_stride_d,
    dq_stride_b,
    dq_stride_h,
    dq_stride_n,
    dq_stride_d,
    heads,
    tokens,
    alpha,
    beta,
    delta,
    scale,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ATTRACT: tl.constexpr,
):
    """Grid (cdiv(tokens, BLOCK_M), batch * heads): dq, and row = sum_d dout out = rowsum(dP P), float32 [B, H, N], for `keys_kernel`."""
    head = (tl.program_id(1) % heads).to(tl.int64)
    batch = (tl.program_id(1) // heads).to(tl.int64)
    slice_offset = tl.program_id(1).to(tl.int64) * tokens
    k_base = k_ptr + batch * k_stride_b + head * k_stride_h
    v_base = v_ptr + batch * v_stride_b + head * v_stride_h
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)

    q_base = q_ptr + batch * q_stride_b + head * q_stride_h
    dout_base = dout_ptr + batch * dout_stride_b + head * dout_stride_h
    out_base = out_ptr + batch * out_stride_b + head * out_stride_h
    q = load_tile(q_base, rows, q_stride_n, q_stride_d, tokens, HEAD_DIM, BLOCK_D, True)
    dout = load_tile(dout_base, rows, dout_stride_n, dout_stride_d, tokens, HEAD_DIM, BLOCK_D, True)
    out = load_tile(out_base, rows, out_stride_n, out_stride_d, tokens, HEAD_DIM, BLOCK_D, True)
    row = tl.sum(dout.to(tl.float32) * out.to(tl.float32), 1)
    tl.store(row_ptr + slice_offset + rows, row, mask=rows < tokens)
    q_norm = squared_norm(q)
    lse = tl.load(lse_ptr + slice_offset + rows, mask=rows < tokens, other=float("inf")) + beta * delta * q_norm

    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    radial = tl.zeros([BLOCK_M], tl.float32)
    for first in range(0, tokens, BLOCK_N):
        keys = first + tl.arange(0, BLOCK_N)
        k = load_tile(k_base, keys, k_stride_n, k_stride_d, tokens, HEAD_DIM, BLOCK_D, True)
        v = load_tile(v_base, keys, v_stride_n, v_stride_d, tokens, HEAD_DIM, BLOCK_D, True)
        k_norm = squared_norm(k)
        tile_lse = tl.where(keys[None, :] < tokens, lse[:, None], float("inf"))  # no probability beyond the last key
        _, d_product, force = _gradients(
            q, k, dout, v, k_norm[None, :], q_norm, k_norm, tile_lse, row[:, None], alpha, beta, delta, scale, ATTRACT
        )
        radial += tl.sum(force, 1)
        dq = tl.dot(d_product.to(k.dtype), k, dq, input_precision="ieee")
    dq -= (2.0 * delta) * radial[:, None] * q.to(tl.float32)
    columns = tl.arange(0, BLOCK_D)
    pointers = dq_ptr + batch * dq_stride_b + head * dq_stride_h + rows[:, None] * dq_stride_n + columns[None, :] * dq_stride_d
    tl.store(pointers, dq.to(dq_ptr.dtype.element_ty), mask=(rows[:, None] < tokens) & (columns[None, :] < HEAD_DIM))


@triton.jit(do_not_specialize=["heads", "tokens"])
def keys_kernel(
    dout_ptr,
    q_ptr,
    k_ptr,
    v_ptr,
    lse_ptr,
    row_ptr,
    dk_ptr,
    dv_ptr,
    dout_stride_b,
    dout_stride_h,
    dout_stride_n,
    dout_stride_d,
    q_stride_b,
    q_stride_h,
    q_stride_n,
    q_stride_d,
    k_stride_b,
    k_stride_h,
    k_stride_n,
    k_stride_d,
    v_stride_b,
    v_stride_h,
    v_stride_n,
    v_stride_d,
    dkv_stride_b,
    dkv_stride_h,
    dkv_stride_n,
    dkv_stride_d,
    heads,
    tokens,
    alpha,
    beta,
    delta,
    scale,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ATTRACT: tl.constexpr,
):
    """Grid (cdiv(tokens, BLOCK_N), batch * heads): dk and dv (of equal strides); works on transposed tiles [N, M]."""
    head = (tl.program_id(1) % heads).to(tl.int64)
    batch = (tl.program_id(1) // heads).to(tl.int64)
    slice_offset = tl.program_id(1).to(tl.int64) * tokens
    q_base = q_ptr + batch * q_stride_b + head * q_stride_h
    dout_base = dout_ptr + batch * dout_stride_b + head * dout_stride_h
    keys = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = load_tile(k_ptr + batch * k_stride_b + head * k_stride_h, keys, k_stride_n, k_stride_d, tokens, HEAD_DIM, BLOCK_D, True)
    v = load_tile(v_ptr + batch * v_stride_b + head * v_stride_h, keys, v_stride_n, v_stride_d, tokens, HEAD_DIM, BLOCK_D, True)
    k_norm = squared_norm(k)

    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    radial = tl.zeros([BLOCK_N], tl.float32)
    for first in range(0, tokens, BLOCK_M):
        rows = first + tl.arange(0, BLOCK_M)
        q = load_tile(q_base, rows, q_stride_n, q_stride_d, tokens, HEAD_DIM, BLOCK_D, True)
        dout = load_tile(dout_base, rows, dout_stride_n, dout_stride_d, tokens, HEAD_DIM, BLOCK_D, True)
        q_norm = squared_norm(q)
        lse = tl.load(lse_ptr + slice_offset + rows, mask=rows < tokens, other=float("inf")) + beta * delta * q_norm
        row = tl.load(row_ptr + slice_offset + rows, mask=rows < tokens, other=0.0)
        probability, d_product, force = _gradients(  # no probability beyond the last query, whose lse is infinite
            k, q, v, dout, k_norm[:, None], k_norm, q_norm, lse[None, :], row[None, :], alpha, beta, delta, scale, ATTRACT
        )
        dv = tl.dot(probability.to(dout.dtype), dout, dv, input_precision="ieee")
        radial += tl.sum(force, 1)
        dk = tl.dot(d_product.to(q.dtype), q, dk, input_precision="ieee")
    dk -= (2.0 * delta) * radial[:, None] * k.to(tl.float32)
    columns = tl.arange(0, BLOCK_D)
    offsets = batch * dkv_stride_b + head * dkv_stride_h + keys[:, None] * dkv_stride_n + columns[None, :] * dkv_stride_d
    inside = (keys[:, None] < tokens) & (columns[None, :] < HEAD_DIM)
    tl.store(dk_ptr + offsets, dk.to(dk_ptr.dtype.element_ty), mask=inside)
    tl.store(dv_ptr + offsets, dv.to(dv_ptr.dtype.element_ty), mask=inside)
