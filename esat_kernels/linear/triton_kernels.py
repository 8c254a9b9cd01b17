# mypy: disallow-untyped-defs=False
# ruff: noqa: N803  (the compile-time arguments of a Triton kernel are written in capitals)
"""norm(x), and activation(x weight^T + bias) + residual, in Triton.

Sums are float32; where the inner dimension is split, its parts meet in a fixed order. LayerNorm between two products is algebra, without a
kernel of its own: the product in front leaves each row less an origin for every group of columns, x - o, with the origins and what the
groups' statistics need; the one behind adds what all weights of a group make of o - mean, and divides by the deviation.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from esat_kernels.linear.triton_parts import add_parts, last_to_arrive

SQRT_HALF = tl.constexpr(0.7071067811865476)


@triton.jit(do_not_specialize=["rows"])
def normalise_kernel(x_ptr, out_ptr, x_stride_m, rows, inner, eps, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):
    """Grid (cdiv(rows, BLOCK_M),): (x - mean) / sqrt(variance + eps) of each row, [rows, inner] contiguous.

    The statistics take one pass over what a row differs from its first value by, so that a large mean costs no digits; tiles are merged by Chan's
    rule, so that nothing cancels.
    """
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    x = x_ptr + tl.minimum(row, rows - 1).to(tl.int64) * x_stride_m
    origin = tl.load(x).to(tl.float32)
    mean, squares = tl.zeros([BLOCK_M], tl.float32), tl.zeros([BLOCK_M], tl.float32)
    for first in range(0, inner, BLOCK_K):
        column = first + tl.arange(0, BLOCK_K)
        inside = column[None, :] < inner
        tile = tl.load(x[:, None] + column[None, :], mask=inside, other=0.0).to(tl.float32)
        tile = tl.where(inside, tile - origin[:, None], 0.0)
        count = tl.minimum(inner - first, BLOCK_K).to(tl.float32)
        tile_mean = tl.sum(tile, 1) / count
        centred = tl.where(inside, tile - tile_mean[:, None], 0.0)
        shift, share = tile_mean - mean, count / (first + count)
        squares += tl.sum(centred * centred, 1) + shift * shift * (first * share)
        mean += shift * share
    scale = tl.rsqrt(squares / inner + eps)
    for first in range(0, inner, BLOCK_K):
        column = first + tl.arange(0, BLOCK_K)
        tile = tl.load(x[:, None] + column[None, :], mask=column[None, :] < inner, other=0.0).to(tl.float32)
        out = ((tile - origin[:, None]) - mean[:, None]) * scale[:, None]
        inside = (row[:, None] < rows) & (column[None, :] < inner)
        tl.store(out_ptr + row.to(tl.int64)[:, None] * inner + column[None, :], out.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _leave_centred(
    values, centred_ptr, left_ptr, row, first, rows, columns, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """Of values [BLOCK_M, BLOCK_N] float32 at row [BLOCK_M, 1] and columns from `first` on what `Centred` names, into centred [rows, columns]
    and left float32 [3, rows, columns / WIDTH].

    An origin is the mean as summed in float32, which under a large mean is not the mean to the last digit: what it lacks is a number of its own.
    """
    groups = columns // WIDTH
    wide = tl.reshape(values, [BLOCK_M, BLOCK_N // WIDTH, WIDTH])
    origin = tl.sum(wide, 2) / WIDTH
    wide -= origin[:, :, None]
    total = tl.sum(wide, 2)
    squares = tl.sum(wide * wide, 2) - total * (total / WIDTH)
    column = first + tl.arange(0, BLOCK_N)[None, :]
    centred = tl.reshape(wide, [BLOCK_M, BLOCK_N]).to(centred_ptr.dtype.element_ty)
    tl.store(centred_ptr + row * columns + column, centred, mask=(row < rows) & (column < columns))
    group = first // WIDTH + tl.arange(0, BLOCK_N // WIDTH)[None, :]
    left_ptr += row * groups + group
    inside = (row < rows) & (group < groups)
    tl.store(left_ptr, origin, mask=inside)
    tl.store(left_ptr + rows.to(tl.int64) * groups, total / WIDTH, mask=inside)
    tl.store(left_ptr + 2 * rows.to(tl.int64) * groups, squares, mask=inside)


@triton.jit
def _apply_left(left_ptr, row, rows, inner, eps, WIDTH: tl.constexpr, GROUPS: tl.constexpr):
    """Of rows `row` [BLOCK_M], from what `_leave_centred` left of their stream [rows, inner]: origin - mean [BLOCK_M, GROUPS] of each group, zero
    beyond the last, and 1 / sqrt(variance + eps) [BLOCK_M]. Everything is taken from the first origin on, so that a large mean costs no digits.
    """
    groups = inner // WIDTH
    group = tl.arange(0, GROUPS)[None, :]
    inside = group < groups
    left_ptr += tl.minimum(row, rows - 1).to(tl.int64)[:, None] * groups
    origin = tl.where(inside, tl.load(left_ptr + group, mask=inside, other=0.0) - tl.load(left_ptr), 0.0)
    mean = origin + tl.load(left_ptr + rows.to(tl.int64) * groups + group, mask=inside, other=0.0)
    squares = tl.load(left_ptr + 2 * rows.to(tl.int64) * groups + group, mask=inside, other=0.0)
    row_mean = (tl.sum(mean, 1) / groups)[:, None]
    shift = tl.where(inside, mean - row_mean, 0.0)
    variance = tl.sum(squares + shift * shift * WIDTH, 1) / inner
    return tl.where(inside, origin - row_mean, 0.0), tl.rsqrt(variance + eps)


@triton.jit
def _add_shift(sums, shift, group_sums_ptr, column, columns, GROUPS: tl.constexpr):
    """sums + shift [BLOCK_M, GROUPS] times the sums of the groups of weights, in 16 bits [2, columns, GROUPS], of `column` [BLOCK_N]."""
    group_sums = group_sums_ptr + column.to(tl.int64)[None, :] * GROUPS + tl.arange(0, GROUPS)[:, None]
    # On the matrix units, in two halves each: what is left out is 2 ** -16 of it.
    rounded = tl.load(group_sums)
    high = shift.to(rounded.dtype)
    sums = tl.dot(high, tl.load(group_sums + columns * GROUPS), sums)
    sums = tl.dot((shift - high.to(tl.float32)).to(rounded.dtype), rounded, sums)
    return tl.dot(high, rounded, sums)


@triton.jit
def _activated(sums, ACTIVATION: tl.constexpr):
    """None, "gelu" (exact) or "relu" of float32 values."""
    if ACTIVATION == "gelu":
        sums = 0.5 * sums * (1.0 + tl.erf(sums * SQRT_HALF))
    elif ACTIVATION == "relu":
        sums = tl.where(sums < 0.0, 0.0, sums)  # NaN stays
    return sums


@triton.jit
def _item_and_place(row, item_rows):
    """In which item of item_rows rows each row is, and at which place there: int64 [BLOCK_M, 1]."""
    item = row // item_rows
    place = (row - item * item_rows).to(tl.int64)[:, None]
    return item.to(tl.int64)[:, None], place


@triton.jit
def _finish(
    sums, own, parts_ptr, bias_ptr, residual_ptr, out_ptr, squares_ptr, centred_ptr, left_ptr, row, first, rows, item_rows, columns,
    residual_stride_b, residual_stride_m, out_stride_b, out_stride_m, squares_first, ACTIVATION: tl.constexpr, WIDTH: tl.constexpr,
    GROUPS: tl.constexpr, LEFT_WIDTH: tl.constexpr, SPLITS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Bias, activation and residual in float32, rounded once into out [rows, columns]: rows `row`, columns from `first` on. Every item_rows rows of
    residual and out are an item, a stride_b behind the one before.

    parts_ptr, if not None: sums are only part `own` of SPLITS, and the others are added from there.
    squares_ptr, if not None: float32 [rows, GROUPS], the sums of squares of GROUPS groups of WIDTH columns of out, from squares_first on.
    centred_ptr, if not None: `_leave_centred` for groups of LEFT_WIDTH columns.
    """
    column = first + tl.arange(0, BLOCK_N)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    if parts_ptr is not None:
        at = row.to(tl.int64)[:, None] * columns + column[None, :]
        sums = add_parts(sums, own, parts_ptr, at, inside, rows.to(tl.int64) * columns, SPLITS)
    if bias_ptr is not None:
        sums += tl.load(bias_ptr + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]
    sums = _activated(sums, ACTIVATION)
    item, place = _item_and_place(row, item_rows)
    row = row.to(tl.int64)[:, None]
    if residual_ptr is not None:
        residual = residual_ptr + item * residual_stride_b + place * residual_stride_m
        sums += tl.load(residual + column[None, :], mask=inside, other=0.0).to(tl.float32)
    rounded = sums.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + item * out_stride_b + place * out_stride_m + column[None, :], rounded, mask=inside)
    if squares_ptr is not None:  # noqa: SIM102  (known when this is compiled, the next one is not)
        if (first + BLOCK_N > squares_first) & (first < squares_first + GROUPS * WIDTH):
            wide = rounded.to(tl.float32)
            if BLOCK_N == WIDTH:  # noqa: SIM108
                groups = tl.sum(wide * wide, 1)[:, None]
            else:
                groups = tl.sum(tl.reshape(wide * wide, [BLOCK_M, BLOCK_N // WIDTH, WIDTH]), 2)
            start = first - squares_first + WIDTH * tl.arange(0, BLOCK_N // WIDTH)[None, :]
            of_out = (row < rows) & (start >= 0) & (start < GROUPS * WIDTH)
            tl.store(squares_ptr + row * GROUPS + start // WIDTH, groups, mask=of_out)
    if centred_ptr is not None:
        _leave_centred(rounded.to(tl.float32), centred_ptr, left_ptr, row, first, rows, columns, BLOCK_M, BLOCK_N, LEFT_WIDTH)


@triton.jit
def _prefetch(pointers, elements):
    """Start to bring `elements` adjacent values behind each pointer into the L2 cache: aligned to 16 bytes, and a multiple of 16 bytes long."""
    size = (elements * (pointers.dtype.element_ty.primitive_bitwidth // 8)).to(tl.int32)
    assembly: tl.constexpr = "cp.async.bulk.prefetch.L2.global [$1], $2; // dummy $0"
    tl.inline_asm_elementwise(assembly, "=r,l,r", [pointers.to(tl.int64), size], tl.int32, is_pure=False, pack=1)


@triton.jit
def _halves(values, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Left and right columns of [BLOCK_M, BLOCK_N]."""
    return tl.split(tl.permute(tl.reshape(values, [BLOCK_M, 2, BLOCK_N // 2]), [0, 2, 1]))


@triton.jit
def _finish_tile(
    sums, own, parts_ptr, bias_ptr, residual_ptr, out_ptr, squares_ptr, centred_ptr, left_ptr, row, first, rows, item_rows, columns,
    residual_stride_b, residual_stride_m, out_stride_b, out_stride_m, squares_first, ACTIVATION: tl.constexpr, WIDTH: tl.constexpr,
    GROUPS: tl.constexpr, LEFT_WIDTH: tl.constexpr, SPLITS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """`_finish`, so few columns at a time that registers suffice."""
    few: tl.constexpr = centred_ptr is not None or parts_ptr is not None or (squares_ptr is not None and BLOCK_N > 128)
    width: tl.constexpr = min(BLOCK_N, 64 if few else 128)
    if width == BLOCK_N:
        _finish(
            sums, own, parts_ptr, bias_ptr, residual_ptr, out_ptr, squares_ptr, centred_ptr, left_ptr, row, first, rows, item_rows, columns,
            residual_stride_b, residual_stride_m, out_stride_b, out_stride_m, squares_first, ACTIVATION, WIDTH, GROUPS, LEFT_WIDTH, SPLITS,
            BLOCK_M, width,
        )  # fmt: skip
    else:
        for half in tl.static_range(2):
            side = _halves(sums, BLOCK_M, BLOCK_N)[half]
            if 2 * width == BLOCK_N:
                _finish(
                    side, own, parts_ptr, bias_ptr, residual_ptr, out_ptr, squares_ptr, centred_ptr, left_ptr, row, first + half * width, rows,
                    item_rows, columns, residual_stride_b, residual_stride_m, out_stride_b, out_stride_m, squares_first, ACTIVATION, WIDTH,
                    GROUPS, LEFT_WIDTH, SPLITS, BLOCK_M, width,
                )  # fmt: skip
            else:
                for quarter in tl.static_range(2):
                    _finish(
                        _halves(side, BLOCK_M, BLOCK_N // 2)[quarter], own, parts_ptr, bias_ptr, residual_ptr, out_ptr, squares_ptr, centred_ptr,
                        left_ptr, row, first + (2 * half + quarter) * width, rows, item_rows, columns, residual_stride_b, residual_stride_m,
                        out_stride_b, out_stride_m, squares_first, ACTIVATION, WIDTH, GROUPS, LEFT_WIDTH, SPLITS, BLOCK_M, width,
                    )  # fmt: skip


@triton.jit(do_not_specialize=["rows", "item_rows"])
def product_kernel(
    x_ptr, weight_ptr, bias_ptr, residual_ptr, out_ptr, squares_ptr, norm_ptr, group_sums_ptr, centred_ptr, left_ptr, parts_ptr,
    counters_ptr, x_stride_b, x_stride_m, weight_stride_n, residual_stride_b, residual_stride_m, out_stride_b, out_stride_m,
    rows, item_rows, inner, columns, squares_first, eps, ACTIVATION: tl.constexpr, WIDTH: tl.constexpr, GROUPS: tl.constexpr,
    NORM_WIDTH: tl.constexpr, NORM_GROUPS: tl.constexpr, LEFT_WIDTH: tl.constexpr, SPLITS: tl.constexpr, WHOLE_K: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, DEPENDENT: tl.constexpr, PREFETCH: tl.constexpr,
):  # fmt: skip
    """Grid (cdiv(rows, BLOCK_M) * cdiv(columns, BLOCK_N), SPLITS). Programs that follow each other share a tile of the weight.

    out is the result, and squares, centred and left are as in `_finish`. Of x too every item_rows rows are an item.
    SPLITS > 1: parts, float32 [SPLITS, rows, columns], get the parts' sums, and the last program of a tile to come finishes it, for which counters
    holds a number for each tile (`last_to_arrive`). If that is None, `sum_kernel` finishes, and all else that stands behind the sums is None.
    norm_ptr, if not None: x is `centred`, and this is `left` of its stream, whose groups have NORM_WIDTH columns. group_sums, in 16 bits [2,
    columns, NORM_GROUPS]: the sums of a row's weights in each group, rounded, and what the rounding left.
    WHOLE_K: inner is a multiple of BLOCK_K.
    DEPENDENT: this launch may start before the one in front is done: nothing that an earlier one writes or reads is touched before the wait, only
    weights. PREFETCH: they are brought into the L2 cache meanwhile.
    """
    row_tiles = tl.cdiv(rows, BLOCK_M)
    row = (tl.program_id(0) % row_tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = (tl.program_id(0) // row_tiles) * BLOCK_N + tl.arange(0, BLOCK_N)
    # Rows and columns beyond the last repeat it: no masks in the loop, and they are not stored.
    source = tl.minimum(row, rows - 1)
    item = source // item_rows
    x = x_ptr + item.to(tl.int64) * x_stride_b + (source - item * item_rows).to(tl.int64) * x_stride_m
    weight = weight_ptr + tl.minimum(column, columns - 1).to(tl.int64) * weight_stride_n
    part = tl.cdiv(tl.cdiv(inner, BLOCK_K), SPLITS) * BLOCK_K
    start = tl.program_id(1) * part
    if DEPENDENT:
        if PREFETCH:  # noqa: SIM102  (known when this is compiled, the next one is not)
            if (tl.program_id(0) % row_tiles == 0) & (start < inner):  # one of those that share the tile
                _prefetch(weight + start, tl.minimum(part, inner - start))
        gdc_wait()
        gdc_launch_dependents()  # behind the wait: so whoever comes next may trust that all before this launch is done
    sums = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if norm_ptr is not None:
        shift, scale = _apply_left(norm_ptr, row, rows, inner, eps, NORM_WIDTH, NORM_GROUPS)
        if SPLITS > 1:  # the first part adds it
            shift = tl.where(tl.program_id(1) == 0, shift, 0.0)
        sums = _add_shift(sums, shift, group_sums_ptr, tl.minimum(column, columns - 1), columns, NORM_GROUPS)
    for first in range(start, tl.minimum(start + part, inner), BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        if WHOLE_K:
            x_tile = tl.load(x[:, None] + k[None, :])
            weight_tile = tl.load(weight[None, :] + k[:, None])
        else:
            x_tile = tl.load(x[:, None] + k[None, :], mask=k[None, :] < inner, other=0.0)
            weight_tile = tl.load(weight[None, :] + k[:, None], mask=k[:, None] < inner, other=0.0)
        sums = tl.dot(x_tile.to(weight_tile.dtype), weight_tile, sums, input_precision="ieee")
    if norm_ptr is not None:
        sums *= scale[:, None]
    first = (tl.program_id(0) // row_tiles) * BLOCK_N
    if SPLITS == 1:
        _finish_tile(
            sums, 0, None, bias_ptr, residual_ptr, out_ptr, squares_ptr, centred_ptr, left_ptr, row, first, rows, item_rows, columns,
            residual_stride_b, residual_stride_m, out_stride_b, out_stride_m, squares_first, ACTIVATION, WIDTH, GROUPS, LEFT_WIDTH, SPLITS,
            BLOCK_M, BLOCK_N,
        )  # fmt: skip
    else:
        own = tl.program_id(1)
        at = (own.to(tl.int64) * rows + row)[:, None] * columns + column[None, :]
        tl.store(parts_ptr + at, sums, mask=(row[:, None] < rows) & (column[None, :] < columns))
        if counters_ptr is not None:  # noqa: SIM102  (known when this is compiled, the next one is not)
            if last_to_arrive(counters_ptr + tl.program_id(0), SPLITS):
                _finish_tile(
                    sums, own, parts_ptr, bias_ptr, residual_ptr, out_ptr, squares_ptr, centred_ptr, left_ptr, row, first, rows, item_rows, columns,
                    residual_stride_b, residual_stride_m, out_stride_b, out_stride_m, squares_first, ACTIVATION, WIDTH, GROUPS, LEFT_WIDTH, SPLITS,
                    BLOCK_M, BLOCK_N,
                )  # fmt: skip


@triton.jit(do_not_specialize=["rows", "item_rows"])
def sum_kernel(
    parts_ptr, bias_ptr, residual_ptr, out_ptr, squares_ptr, centred_ptr, left_ptr, residual_stride_b, residual_stride_m, out_stride_b,
    out_stride_m, rows, item_rows, columns, squares_first, ACTIVATION: tl.constexpr, WIDTH: tl.constexpr, GROUPS: tl.constexpr,
    LEFT_WIDTH: tl.constexpr, SPLITS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Grid (cdiv(rows, BLOCK_M), cdiv(columns, BLOCK_N)): the parts float32 [SPLITS, rows, columns] in their order, and what follows the product."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    first = tl.program_id(1) * BLOCK_N
    column = first + tl.arange(0, BLOCK_N)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    at = row.to(tl.int64)[:, None] * columns + column[None, :]
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    sums = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for part in tl.static_range(SPLITS):
        sums += tl.load(parts_ptr + part * rows.to(tl.int64) * columns + at, mask=inside, other=0.0)
    _finish(
        sums, 0, None, bias_ptr, residual_ptr, out_ptr, squares_ptr, centred_ptr, left_ptr, row, first, rows, item_rows, columns,
        residual_stride_b, residual_stride_m, out_stride_b, out_stride_m, squares_first, ACTIVATION, WIDTH, GROUPS, LEFT_WIDTH, 1, BLOCK_M,
        BLOCK_N,
    )  # fmt: skip
