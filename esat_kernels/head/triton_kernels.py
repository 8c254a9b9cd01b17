# mypy: disallow-untyped-defs=False
# ruff: noqa: N803  (the compile-time arguments of a Triton kernel are written in capitals)
"""The head's features from the last tokens, its convolutions, and its maps from the channels of the last one, in Triton."""

from __future__ import annotations

import triton
import triton.language as tl

FLOOR = tl.constexpr(1e-4)
CEILING = tl.constexpr(1 - 1e-4)


@triton.jit(do_not_specialize=["count", "length"])
def features_kernel(
    tokens_ptr, gain_ptr, bias_ptr, kept_ptr, out_ptr, count, length, channels, eps,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Grid (cdiv(length, ROWS), batch): each row of the output looks for its token, so that the zeros need no pass of their own. All contiguous."""
    batch = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    if kept_ptr is None:
        token = tl.where(row < length, row, -1)
    else:
        token = tl.full([ROWS], -1, tl.int32)
        for first in range(0, count, BLOCK_N):
            index = first + tl.arange(0, BLOCK_N)
            position = tl.load(kept_ptr + batch * count + index, mask=index < count, other=-1)
            token = tl.maximum(token, tl.max(tl.where(position[None, :] == row[:, None], index[None, :], -1), 1))
    channel = tl.arange(0, BLOCK_C)[None, :]
    inside = channel < channels
    source = tokens_ptr + (batch * count + tl.maximum(token, 0))[:, None] * channels + channel
    values = tl.load(source, mask=inside & (token >= 0)[:, None], other=0.0)
    centred = tl.where(inside, values - (tl.sum(values, 1) / channels)[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 1) / channels + eps)
    gain = tl.load(gain_ptr + channel, mask=inside, other=0.0)
    bias = tl.load(bias_ptr + channel, mask=inside, other=0.0)
    out = tl.where((token >= 0)[:, None], centred * scale[:, None] * gain + bias, 0.0)
    target = out_ptr + (batch * length + row)[:, None] * channels + channel
    tl.store(target, out.to(out_ptr.dtype.element_ty), mask=inside & (row < length)[:, None])


@triton.jit
def _probability(logit):
    """The sigmoid, kept away from 0 and 1; NaN stays."""
    value = 1.0 / (1.0 + tl.exp(-logit))
    return tl.where(value < FLOOR, FLOOR, tl.where(value > CEILING, CEILING, value))


@triton.jit
def maps_kernel(
    hidden_ptr, weight_ptr, bias_ptr, score_ptr, size_ptr, offset_ptr, cells, channels, CELLS: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    """Grid (cdiv(cells, CELLS), batch): hidden [B, cells, channels], weight [5, channels], bias [5] -> score [B, 1, cells], size and offset
    [B, 2, cells]. All contiguous.
    """
    batch = tl.program_id(1).to(tl.int64)
    cell, channel = tl.program_id(0) * CELLS + tl.arange(0, CELLS), tl.arange(0, BLOCK_C)
    inside = (cell < cells)[:, None] & (channel < channels)[None, :]
    hidden = tl.load(hidden_ptr + (batch * cells + cell)[:, None] * channels + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    for row in tl.static_range(5):
        weight = tl.load(weight_ptr + row * channels + channel, mask=channel < channels, other=0.0)
        logit = tl.sum(hidden * weight[None, :], 1) + tl.load(bias_ptr + row)
        if row == 0:
            tl.store(score_ptr + batch * cells + cell, _probability(logit), mask=cell < cells)
        elif row < 3:
            tl.store(offset_ptr + (2 * batch + (row - 1)) * cells + cell, logit, mask=cell < cells)
        else:
            tl.store(size_ptr + (2 * batch + (row - 3)) * cells + cell, _probability(logit), mask=cell < cells)


@triton.jit(do_not_specialize=["rows"])
def convolution_kernel(
    x_ptr, weight_ptr, bias_ptr, out_ptr, last_weight_ptr, last_bias_ptr, score_ptr, size_ptr, offset_ptr, rows, inner, columns,
    GROUPS: tl.constexpr, SIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, WHOLE_K: tl.constexpr,
):  # fmt: skip
    """Grid (cdiv(rows, BLOCK_M), cdiv(columns, BLOCK_N), GROUPS): relu(3 x 3 convolution + bias), zeros around, of [B, SIDE, SIDE, GROUPS * inner].

    A group reads its `inner` channels with weight [GROUPS, columns, 3, 3, inner] and bias [GROUPS, columns], and writes its `columns` of out [rows,
    GROUPS * columns]; rows are the cells of all maps. Programs that follow each other share a tile of the weight.
    WHOLE_K: inner is a multiple of BLOCK_K.
    out_ptr None: the branches' last layer follows instead, as in `maps_kernel`, with last_weight [5, GROUPS * columns]; columns <= BLOCK_N, and
    the groups are the branches of score, offset and size.
    """
    CELLS: tl.constexpr = SIDE * SIDE  # noqa: N806
    group = tl.program_id(2)
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    source = tl.minimum(row, rows - 1)
    y, x = source % CELLS // SIDE, source % SIDE
    channels, width = GROUPS * inner, GROUPS * columns
    weight = weight_ptr + (group * columns + tl.minimum(column, columns - 1)).to(tl.int64) * (9 * inner)
    steps = tl.cdiv(inner, BLOCK_K)
    sums = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for step in range(0, 9 * steps):
        tap = step // steps
        down, right = tap // 3 - 1, tap % 3 - 1
        k = (step - tap * steps) * BLOCK_K + tl.arange(0, BLOCK_K)
        inside = ((y + down >= 0) & (y + down < SIDE) & (x + right >= 0) & (x + right < SIDE))[:, None]
        at = (source + down * SIDE + right).to(tl.int64) * channels + group * inner
        if WHOLE_K:
            x_tile = tl.load(x_ptr + at[:, None] + k[None, :], mask=inside, other=0.0)
            weight_tile = tl.load(weight[None, :] + (tap * inner + k)[:, None])
        else:
            x_tile = tl.load(x_ptr + at[:, None] + k[None, :], mask=inside & (k[None, :] < inner), other=0.0)
            weight_tile = tl.load(weight[None, :] + (tap * inner + k)[:, None], mask=k[:, None] < inner, other=0.0)
        sums = tl.dot(x_tile, weight_tile, sums, input_precision="ieee")
    real = column < columns
    sums += tl.load(bias_ptr + group * columns + column, mask=real, other=0.0).to(tl.float32)[None, :]
    sums = tl.where(sums < 0.0, 0.0, sums).to(x_ptr.dtype.element_ty)  # NaN stays
    if out_ptr is not None:
        target = out_ptr + row.to(tl.int64)[:, None] * width + (group * columns + column)[None, :]
        tl.store(target, sums, mask=(row < rows)[:, None] & real[None, :])
    else:
        hidden = sums.to(tl.float32)
        item, cell = row // CELLS, row % CELLS
        for place in tl.static_range(2):
            layer = tl.where(group == 0, 0, 2 * group - 1 + place)
            last = tl.load(last_weight_ptr + layer * width + group * columns + column, mask=real, other=0.0)
            logit = tl.sum(tl.where(real[None, :], hidden * last[None, :], 0.0), 1) + tl.load(last_bias_ptr + layer)
            target = (2 * item + place) * CELLS + cell
            if group == 0:
                tl.store(score_ptr + row, _probability(logit), mask=(row < rows) & (place == 0))
            elif group == 1:
                tl.store(offset_ptr + target, logit, mask=row < rows)
            else:
                tl.store(size_ptr + target, _probability(logit), mask=row < rows)
