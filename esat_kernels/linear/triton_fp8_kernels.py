# mypy: disallow-untyped-defs=False
# ruff: noqa: N803  (the compile-time arguments of a Triton kernel are written in capitals)
"""Products of e4m3 rows and weights, and what leaves such rows, in Triton.

A tile is GROUP columns wide: the epilogue in front sees a whole group of each of its rows, and scales it by its largest value. The product behind
takes a group's 128 inner elements at a time, and adds their sum times the rows' scales in float32. That is also as far as Hopper's matrix units may
add by themselves: they align what they add to the largest and keep about 14 bits of it (https://arxiv.org/abs/2412.19437, section 3.3.2).
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from esat_kernels.linear import fp8
from esat_kernels.linear.triton_kernels import _activated, _add_shift, _apply_left, _item_and_place, _leave_centred, _prefetch

GROUP, LARGEST, LEAST_SCALE = tl.constexpr(fp8.GROUP), tl.constexpr(fp8.LARGEST), tl.constexpr(fp8.LEAST_SCALE)


@triton.jit
def _leave_scaled(values, rows_ptr, scales_ptr, statistics_ptr, row, group, rows, groups):
    """Of values [BLOCK_M, GROUP] float32, group `group` of rows `row`, what `Scaled` names. Origins are as in `_leave_centred`."""
    inside = row < rows
    wide_row = row.to(tl.int64)
    if statistics_ptr is not None:
        origin = tl.sum(values, 1) / GROUP
        values -= origin[:, None]
        total = tl.sum(values, 1)
        squares = tl.sum(values * values, 1) - total * (total / GROUP)
        statistics_ptr += wide_row * groups + group
        tl.store(statistics_ptr, origin, mask=inside)
        tl.store(statistics_ptr + rows.to(tl.int64) * groups, total / GROUP, mask=inside)
        tl.store(statistics_ptr + 2 * rows.to(tl.int64) * groups, squares, mask=inside)
    scale = tl.maximum(tl.max(tl.abs(values), 1) / LARGEST, LEAST_SCALE)
    rounded = (values * (1.0 / scale)[:, None]).to(rows_ptr.dtype.element_ty)
    column = group * GROUP + tl.arange(0, GROUP)
    tl.store(rows_ptr + wide_row[:, None] * (groups * GROUP) + column[None, :], rounded, mask=inside[:, None])
    tl.store(scales_ptr + group.to(tl.int64) * rows + row, scale, mask=inside)


@triton.jit
def _finish(
    sums, bias_ptr, residual_ptr, out_ptr, left_rows_ptr, left_scales_ptr, left_statistics_ptr, row, group, rows, item_rows, columns,
    residual_stride_b, residual_stride_m, out_stride_b, out_stride_m, ACTIVATION: tl.constexpr, LEFT_WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Bias, activation and residual in float32 for rows `row` and the columns of `group`, rounded once into out, if that is not None.

    left_rows, if not None: what `Scaled` names, or without scales what `Centred` does, in groups of LEFT_WIDTH columns.
    """
    column = group * GROUP + tl.arange(0, GROUP)
    inside = row[:, None] < rows
    if bias_ptr is not None:
        sums += tl.load(bias_ptr + column).to(tl.float32)[None, :]
    sums = _activated(sums, ACTIVATION)
    item, place = _item_and_place(row, item_rows)
    if residual_ptr is not None:
        residual = residual_ptr + item * residual_stride_b + place * residual_stride_m
        sums += tl.load(residual + column[None, :], mask=inside, other=0.0).to(tl.float32)
    if out_ptr is not None:
        rounded = sums.to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + item * out_stride_b + place * out_stride_m + column[None, :], rounded, mask=inside)
        sums = rounded.to(tl.float32)
    if left_scales_ptr is not None:
        _leave_scaled(sums, left_rows_ptr, left_scales_ptr, left_statistics_ptr, row, group, rows, columns // GROUP)
    elif left_rows_ptr is not None:
        wide_row = row.to(tl.int64)[:, None]
        _leave_centred(sums, left_rows_ptr, left_statistics_ptr, wide_row, group * GROUP, rows, columns, BLOCK_M, GROUP, LEFT_WIDTH)


@triton.jit(do_not_specialize=["rows", "item_rows"])
def fp8_product_kernel(
    x_ptr, scales_ptr, weight_ptr, weight_scales_ptr, bias_ptr, residual_ptr, out_ptr, norm_ptr, group_sums_ptr, left_rows_ptr,
    left_scales_ptr, left_statistics_ptr, x_stride_b, x_stride_m, weight_stride_n, residual_stride_b, residual_stride_m, out_stride_b, out_stride_m,
    rows, item_rows, inner, columns, eps, ACTIVATION: tl.constexpr, LEFT_WIDTH: tl.constexpr,
    NORM_GROUPS: tl.constexpr, SPLITS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, DEPENDENT: tl.constexpr,
    PREFETCH: tl.constexpr,
):  # fmt: skip
    """Grid (cdiv(rows, BLOCK_M) * columns / GROUP, SPLITS). Programs that follow each other share a tile of the weight; inner and columns are
    multiples of GROUP.

    scales_ptr, if not None: x and weight are e4m3, each group of x over its scale in [inner / GROUP, rows], each row of the weight over its own,
    and BLOCK_K is GROUP. Else both are bfloat16.
    SPLITS == 1: out and what is left are as in `_finish`. Otherwise out is float32 [SPLITS, rows, columns], for `fp8_sum_kernel`.
    norm_ptr, if not None: x is a stream less its origins, and these are its statistics; group_sums as in the products of bfloat16, of the weight
    over its scales. DEPENDENT and PREFETCH too are as there.
    """
    row_tiles = tl.cdiv(rows, BLOCK_M)
    row = (tl.program_id(0) % row_tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    group = tl.program_id(0) // row_tiles
    column = group * GROUP + tl.arange(0, GROUP)
    source = tl.minimum(row, rows - 1)  # rows beyond the last repeat it: no masks in the loop, and they are not stored
    item = source // item_rows
    x = x_ptr + item.to(tl.int64) * x_stride_b + (source - item * item_rows).to(tl.int64) * x_stride_m
    weight = weight_ptr + column.to(tl.int64) * weight_stride_n
    part = tl.cdiv(tl.cdiv(inner, BLOCK_K), SPLITS) * BLOCK_K
    start = tl.program_id(1) * part
    end = tl.minimum(start + part, inner)
    if DEPENDENT:
        if PREFETCH:  # noqa: SIM102  (known when this is compiled, the next one is not)
            if (tl.program_id(0) % row_tiles == 0) & (start < inner):  # one of those that share the tile
                _prefetch(weight + start, end - start)
        gdc_wait()
        gdc_launch_dependents()
    sums = tl.zeros([BLOCK_M, GROUP], tl.float32)
    if norm_ptr is not None:
        shift, deviation = _apply_left(norm_ptr, row, rows, inner, eps, GROUP, NORM_GROUPS)
        if SPLITS > 1:  # the first part adds it
            shift = tl.where(tl.program_id(1) == 0, shift, 0.0)
        sums = _add_shift(sums, shift, group_sums_ptr, column, columns, NORM_GROUPS)
    if scales_ptr is not None:
        tl.static_assert(BLOCK_K == GROUP)
        scales_ptr += source
        scale = tl.load(scales_ptr + (tl.minimum(start, inner - BLOCK_K) // GROUP).to(tl.int64) * rows)
        for first in range(start, end, BLOCK_K):
            k = first + tl.arange(0, BLOCK_K)
            found = tl.dot(tl.load(x[:, None] + k[None, :]), tl.load(weight[None, :] + k[:, None]))
            following = tl.minimum(first + BLOCK_K, inner - BLOCK_K) // GROUP  # on its way while the matrix units work
            following_scale = tl.load(scales_ptr + following.to(tl.int64) * rows)
            sums += found * scale[:, None]
            scale = following_scale
    else:
        for first in range(start, end, BLOCK_K):
            k = first + tl.arange(0, BLOCK_K)
            sums = tl.dot(tl.load(x[:, None] + k[None, :]), tl.load(weight[None, :] + k[:, None]), sums)
    if norm_ptr is not None:
        sums *= deviation[:, None]
    if weight_scales_ptr is not None:
        sums *= tl.load(weight_scales_ptr + column)[None, :]
    if SPLITS > 1:
        out_ptr += tl.program_id(1).to(tl.int64) * rows * columns
        _finish(
            sums, None, None, out_ptr, None, None, None, row, group, rows, rows, columns, 0, 0, 0, columns, None, LEFT_WIDTH, BLOCK_M,
        )  # fmt: skip
    else:
        _finish(
            sums, bias_ptr, residual_ptr, out_ptr, left_rows_ptr, left_scales_ptr, left_statistics_ptr, row, group, rows, item_rows,
            columns, residual_stride_b, residual_stride_m, out_stride_b, out_stride_m, ACTIVATION, LEFT_WIDTH, BLOCK_M,
        )  # fmt: skip


@triton.jit(do_not_specialize=["rows", "item_rows"])
def fp8_sum_kernel(
    parts_ptr, bias_ptr, residual_ptr, out_ptr, left_rows_ptr, left_scales_ptr, left_statistics_ptr, residual_stride_b,
    residual_stride_m, out_stride_b, out_stride_m, rows, item_rows, columns, ACTIVATION: tl.constexpr, LEFT_WIDTH: tl.constexpr,
    SPLITS: tl.constexpr, BLOCK_M: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Grid (cdiv(rows, BLOCK_M), columns / GROUP): the parts float32 [SPLITS, rows, columns] in their order, and what follows the product."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    group = tl.program_id(1)
    at = row.to(tl.int64)[:, None] * columns + group * GROUP + tl.arange(0, GROUP)[None, :]
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    sums = tl.zeros([BLOCK_M, GROUP], tl.float32)
    for part in tl.static_range(SPLITS):
        sums += tl.load(parts_ptr + part * rows.to(tl.int64) * columns + at, mask=row[:, None] < rows, other=0.0)
    _finish(
        sums, bias_ptr, residual_ptr, out_ptr, left_rows_ptr, left_scales_ptr, left_statistics_ptr, row, group, rows, item_rows,
        columns, residual_stride_b, residual_stride_m, out_stride_b, out_stride_m, ACTIVATION, LEFT_WIDTH, BLOCK_M,
    )  # fmt: skip
