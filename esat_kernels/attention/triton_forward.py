# mypy: disallow-untyped-defs=False
# ruff: noqa: N803  (the compile-time arguments of a Triton kernel are written in capitals)
"""Force-directed attention forward in Triton: one pass over the keys, no N x N matrix, and the elimination row from a second, tiny kernel.

Everything works on base-2 exponents. With S = q . k, c = (scale + 2 beta delta) log2 e and b_j = -beta delta log2 e |k_j|^2 a logit is
c S + b_j + alpha log2 e exp(-r): the repulsion's |q_i|^2 is constant along a row and softmax does not see it.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def load_tile(base, rows, stride_row, stride_dim, tokens, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, MASK_ROWS: tl.constexpr):
    """[rows, BLOCK_D] of one head; zeros beyond the last token and beyond HEAD_DIM."""
    columns = tl.arange(0, BLOCK_D)
    pointers = base + rows[:, None] * stride_row + columns[None, :] * stride_dim
    if MASK_ROWS and BLOCK_D != HEAD_DIM:
        return tl.load(pointers, mask=(rows[:, None] < tokens) & (columns[None, :] < HEAD_DIM), other=0.0)
    elif MASK_ROWS:
        return tl.load(pointers, mask=rows[:, None] < tokens, other=0.0)
    elif BLOCK_D != HEAD_DIM:
        return tl.load(pointers, mask=columns[None, :] < HEAD_DIM, other=0.0)
    else:
        return tl.load(pointers)


@triton.jit
def squared_norm(tile):
    """Row sums of squares in float32 of the values that the matrix product sees."""
    wide = tile.to(tl.float32)
    return tl.sum(wide * wide, 1)


@triton.jit
def attraction(product, q_norm, k_norm, delta):
    """exp(-r), r = delta |q - k|^2 >= 0; rounding may leave a tiny negative distance."""
    distance = q_norm[:, None] + k_norm[None, :] - 2.0 * product
    return tl.exp2(tl.minimum(-delta * LOG2E * distance, 0.0))


@triton.jit
def _over_keys(
    acc,
    row_max,
    row_sum,
    q,
    q_norm,
    k_base,
    v_base,
    start,
    stop,
    tokens,
    k_stride_n,
    k_stride_d,
    v_stride_n,
    v_stride_d,
    alpha,
    beta,
    delta,
    scale,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ATTRACT: tl.constexpr,
    REPEL: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Streams the keys in [start, stop) through the running softmax; only the last, ragged tile is MASKED."""
    slope = (scale + 2.0 * beta * delta) * LOG2E
    for first in range(start, stop, BLOCK_N):
        rows = first + tl.arange(0, BLOCK_N)
        k = load_tile(k_base, rows, k_stride_n, k_stride_d, tokens, HEAD_DIM, BLOCK_D, MASKED)
        product = tl.dot(q, tl.trans(k), input_precision="ieee")
        logit = slope * product
        if ATTRACT or REPEL:
            k_norm = squared_norm(k)
            if REPEL:
                logit += (-beta * delta * LOG2E) * k_norm[None, :]
        if MASKED:
            logit = tl.where(rows[None, :] < tokens, logit, float("-inf"))
        if ATTRACT:
            logit += (alpha * LOG2E) * attraction(product, q_norm, k_norm, delta)
        # The maximum could ignore the attraction, but then the largest probability of a row would not be exactly 1, and where one key
        # dominates, rounding it to 16 bits would take more than the error budget allows (tests: kind "near").
        new_max = tl.maximum(row_max, tl.max(logit, 1))
        probability = tl.exp2(logit - new_max[:, None])
        rescale = tl.exp2(row_max - new_max)
        row_sum = row_sum * rescale + tl.sum(probability, 1)
        v = load_tile(v_base, rows, v_stride_n, v_stride_d, tokens, HEAD_DIM, BLOCK_D, MASKED)
        acc = tl.dot(probability.to(v.dtype), v, acc * rescale[:, None], input_precision="ieee")
        row_max = new_max
    return acc, row_max, row_sum


@triton.jit(do_not_specialize=["heads", "tokens"])  # one machine code for every number of tokens
def forward_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    lse_ptr,
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
    REPEL: tl.constexpr,
):
    """Grid (cdiv(tokens, BLOCK_M), batch * heads). out in the input's dtype, lse float32 [B, H, N] contiguous, natural logarithm."""
    head = tl.program_id(1) % heads
    batch = (tl.program_id(1) // heads).to(tl.int64)
    q_base = q_ptr + batch * q_stride_b + head.to(tl.int64) * q_stride_h
    k_base = k_ptr + batch * k_stride_b + head.to(tl.int64) * k_stride_h
    v_base = v_ptr + batch * v_stride_b + head.to(tl.int64) * v_stride_h
    out_base = out_ptr + batch * out_stride_b + head.to(tl.int64) * out_stride_h

    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    q = load_tile(q_base, rows, q_stride_n, q_stride_d, tokens, HEAD_DIM, BLOCK_D, True)
    q_norm = squared_norm(q)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    whole = (tokens // BLOCK_N) * BLOCK_N
    acc, row_max, row_sum = _over_keys(
        acc, row_max, row_sum, q, q_norm, k_base, v_base, 0, whole, tokens, k_stride_n, k_stride_d, v_stride_n, v_stride_d,
        alpha, beta, delta, scale, HEAD_DIM, BLOCK_D, BLOCK_N, ATTRACT, REPEL, False,
    )  # fmt: skip
    if whole < tokens:
        acc, row_max, row_sum = _over_keys(
            acc, row_max, row_sum, q, q_norm, k_base, v_base, whole, tokens, tokens, k_stride_n, k_stride_d, v_stride_n, v_stride_d,
            alpha, beta, delta, scale, HEAD_DIM, BLOCK_D, BLOCK_N, ATTRACT, REPEL, True,
        )  # fmt: skip

    out = acc / row_sum[:, None]
    columns = tl.arange(0, BLOCK_D)
    inside = (rows[:, None] < tokens) & (columns[None, :] < HEAD_DIM)
    out_pointers = out_base + rows[:, None] * out_stride_n + columns[None, :] * out_stride_d
    tl.store(out_pointers, out.to(out_ptr.dtype.element_ty), mask=inside)
    lse = (row_max + tl.log2(row_sum)) * LN2 - beta * delta * q_norm
    tl.store(lse_ptr + tl.program_id(1).to(tl.int64) * tokens + rows, lse, mask=rows < tokens)


@triton.jit(do_not_specialize=["heads", "tokens", "num_template", "template_token"])
def scores_kernel(
    q_ptr,
    k_ptr,
    lse_ptr,
    scores_ptr,
    q_stride_b,
    q_stride_h,
    q_stride_n,
    q_stride_d,
    k_stride_b,
    k_stride_h,
    k_stride_n,
    k_stride_d,
    heads,
    tokens,
    num_template,
    template_token,
    alpha,
    beta,
    delta,
    scale,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Grid (cdiv(tokens - num_template, BLOCK_N), batch): the template token's probabilities at the search tokens, mean over the heads.

    scores float32 [B, N - num_template], contiguous. The heads are added in their order: the same bits on every run.
    """
    batch = tl.program_id(1).to(tl.int64)
    rows = num_template + tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = tl.arange(0, BLOCK_D)
    total = tl.zeros([BLOCK_N], tl.float32)
    q_base = q_ptr + batch * q_stride_b + template_token * q_stride_n
    k_base = k_ptr + batch * k_stride_b
    lse_base = lse_ptr + batch * heads * tokens + template_token
    for _ in range(heads):
        q = tl.load(q_base + columns * q_stride_d, mask=columns < HEAD_DIM, other=0.0).to(tl.float32)
        k = load_tile(k_base, rows, k_stride_n, k_stride_d, tokens, HEAD_DIM, BLOCK_D, True).to(tl.float32)
        product = tl.sum(k * q[None, :], 1)
        difference = k - q[None, :]
        repulsion = delta * tl.sum(difference * difference, 1)
        logit = scale * product + alpha * tl.exp2(repulsion * (-LOG2E)) - beta * repulsion
        total += tl.exp2((logit - tl.load(lse_base)) * LOG2E)
        q_base += q_stride_h
        k_base += k_stride_h
        lse_base += tokens
    inside = rows < tokens
    tl.store(scores_ptr + batch * (tokens - num_template) + rows - num_template, total / heads, mask=inside)
