# mypy: disallow-untyped-defs=False
# ruff: noqa: N803  (the compile-time arguments of a Triton kernel are written in capitals)
"""Candidate elimination in Triton: selection by counting, without sorting or atomics, so that the result never depends on timing.

Scores become integers in the same order. The keep-th largest is found bit by bit from the top: a bit belongs to it if at least `keep` scores
reach the number with that bit. Scores above it are kept, and of its equals as many, from the left, as there is room for.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def _selected(scores_ptr, stride, count, keep, BLOCK: tl.constexpr):
    """Which of `count` scores are kept: int32 [BLOCK], 0 or 1."""
    position = tl.arange(0, BLOCK)
    score = tl.load(scores_ptr + position.to(tl.int64) * stride, mask=position < count, other=0.0).to(tl.float32)
    bits = tl.where(score == 0.0, 0.0, score).to(tl.int32, bitcast=True)  # -0 equals 0
    order = tl.where(bits < 0, -(bits & 2147483647), bits)
    order = tl.where(score != score, 2147483647, order)  # NaN is the largest
    order = tl.where(position < count, order, -2147483648)

    threshold = tl.where(tl.sum((order >= 0).to(tl.int32), 0) >= keep, 0, -2147483648)
    bit = 1073741824
    for _ in range(31):
        enough = tl.sum((order >= threshold + bit).to(tl.int32), 0) >= keep
        threshold = tl.where(enough, threshold + bit, threshold)
        bit = bit >> 1
    above, equal = (order > threshold).to(tl.int32), (order == threshold).to(tl.int32)
    room = keep - tl.sum(above, 0)
    return above + equal * (tl.cumsum(equal, 0) <= room).to(tl.int32)


@triton.jit
def _copy_rows(source, target, loaded, stored, columns, stride, BLOCK_C: tl.constexpr):
    """Rows from the pointers `source` [ROWS] to `target` [ROWS], adjacent in themselves there: zeros unless `loaded`, nothing unless `stored`."""
    for first in range(0, columns, BLOCK_C):
        column = first + tl.arange(0, BLOCK_C)
        inside = column[None, :] < columns
        values = tl.load(source[:, None] + column[None, :] * stride, mask=inside & loaded[:, None], other=0)
        tl.store(target[:, None] + column[None, :], values, mask=inside & stored[:, None])


@triton.jit(do_not_specialize=["count", "keep"])
def select_kernel(scores_ptr, kept_ptr, scores_stride_b, scores_stride_n, count, keep, BLOCK: tl.constexpr):
    """Grid (batch,): positions of the `keep` largest of `count` scores, ascending, int64 [B, keep] contiguous."""
    batch = tl.program_id(0).to(tl.int64)
    kept = _selected(scores_ptr + batch * scores_stride_b, scores_stride_n, count, keep, BLOCK)
    tl.store(kept_ptr + batch * keep + tl.cumsum(kept, 0) - 1, tl.arange(0, BLOCK).to(tl.int64), mask=kept == 1)


@triton.jit(do_not_specialize=["num_template", "count", "keep"])
def eliminate_kernel(
    scores_ptr, first_ptr, second_ptr, places_ptr, kept_ptr, first_out_ptr, second_out_ptr, scores_stride_b, scores_stride_n,
    first_stride_b, first_stride_n, first_stride_c, second_stride_b, second_stride_n, second_stride_c,
    num_template, count, keep, first_columns, second_columns, BLOCK: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Grid (cdiv(num_template + count, ROWS), batch): each program selects for itself, then copies those of its ROWS rows that stay."""
    batch = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    if DEPENDENT:  # as in the products: launched before the one in front is done
        gdc_wait()
        gdc_launch_dependents()
    kept = _selected(scores_ptr + batch * scores_stride_b, scores_stride_n, count, keep, BLOCK)
    position, search = tl.arange(0, BLOCK), row - num_template
    is_kept = tl.sum(tl.where(position[None, :] == search[:, None], kept[None, :], 0), 1) == 1  # False for template rows
    before = tl.sum(tl.where(position[None, :] < search[:, None], kept[None, :], 0), 1)  # kept search tokens before this row
    place = search.to(tl.int64)
    if places_ptr is not None:
        place = tl.load(places_ptr + batch * count + search, mask=is_kept, other=0)
    tl.store(kept_ptr + batch * keep + before, place, mask=is_kept)
    stays = is_kept | (row < num_template)
    target = batch * (num_template + keep) + tl.minimum(row, num_template) + before
    source = row.to(tl.int64)
    _copy_rows(
        first_ptr + batch * first_stride_b + source * first_stride_n, first_out_ptr + target * first_columns,
        stays, stays, first_columns, first_stride_c, BLOCK_C,
    )  # fmt: skip
    _copy_rows(
        second_ptr + batch * second_stride_b + source * second_stride_n, second_out_ptr + target * second_columns,
        stays, stays, second_columns, second_stride_c, BLOCK_C,
    )  # fmt: skip


@triton.jit(do_not_specialize=["num_template", "count", "length"])
def gather_kernel(
    tokens_ptr, kept_ptr, out_ptr, tokens_stride_b, tokens_stride_n, tokens_stride_c, num_template, count, length, columns,
    ROWS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Grid (cdiv(num_template + count, ROWS), batch): the template's rows, then those at `count` positions among `length` search tokens.

    A position outside gives a row of zeros: a GPU has no error to raise.
    """
    batch = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_search = (row >= num_template) & (row < num_template + count)
    position = tl.load(kept_ptr + batch * count + row - num_template, mask=is_search, other=0)
    source = tl.where(is_search, num_template + position, row.to(tl.int64))
    loaded = (row < num_template) | (is_search & (position >= 0) & (position < length))
    target = batch * (num_template + count) + row
    _copy_rows(
        tokens_ptr + batch * tokens_stride_b + source * tokens_stride_n, out_ptr + target * columns,
        loaded, row < num_template + count, columns, tokens_stride_c, BLOCK_C,
    )  # fmt: skip


@triton.jit(do_not_specialize=["count", "length"])
def scatter_kernel(
    tokens_ptr, kept_ptr, out_ptr, tokens_stride_b, tokens_stride_n, tokens_stride_c, count, length, columns,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Grid (cdiv(length, ROWS), batch): each row of the output looks for its token, so that the zeros need no pass of their own."""
    batch = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = tl.full([ROWS], -1, tl.int32)
    for first in range(0, count, BLOCK_N):
        index = first + tl.arange(0, BLOCK_N)
        position = tl.load(kept_ptr + batch * count + index, mask=index < count, other=-1)
        token = tl.maximum(token, tl.max(tl.where(position[None, :] == row[:, None], index[None, :], -1), 1))
    _copy_rows(
        tokens_ptr + batch * tokens_stride_b + token.to(tl.int64) * tokens_stride_n, out_ptr + (batch * length + row) * columns,
        token >= 0, row < length, columns, tokens_stride_c, BLOCK_C,
    )  # fmt: skip
