# mypy: disallow-untyped-defs=False
# ruff: noqa: N803  (the compile-time arguments of a Triton kernel are written in capitals)
"""From the head's maps to the next box of each target, in Triton: the reference's arithmetic, float32 up to the box and float64 behind it.

The launch must forbid fused multiply-adds, which would round the box once less than the reference.
"""

from __future__ import annotations

import triton
import triton.language as tl

NINTH = tl.constexpr(1 / 9)


@triton.jit
def _above(x, bound):
    """The larger one; NaN stays NaN, which maximum does not promise."""
    return tl.where(x < bound, bound, x)


@triton.jit
def _below(x, bound):
    return tl.where(x > bound, bound, x)


@triton.jit
def _next(boxes, boxes_stride_x, axis: tl.constexpr, centre, extent, side, length, margin):
    """One axis of the next box, clipped to the frame: start and extent, and the start before. The region is centred on the unrounded previous box."""
    previous = tl.load(boxes + axis * boxes_stride_x) + 0.5 * tl.load(boxes + (axis + 2) * boxes_stride_x)
    start = previous - 0.5 * side + centre - 0.5 * extent
    margin = _below(margin, length)
    end = _below(_above(start + extent, margin), length)
    inside = _below(_above(start, 0.0), length - margin)
    return inside, _above(end - inside, margin), start


@triton.jit
def _mean_around(features, index, channels, around, SIDE: tl.constexpr, BLOCK_C: tl.constexpr):
    """The mean of 3 x 3 cells of `features` [SIDE * SIDE, channels], zeros beyond the border, in the reference's order."""
    for first in range(0, channels, BLOCK_C):
        channel = first + tl.arange(0, BLOCK_C)
        total = tl.zeros([BLOCK_C], tl.float32)
        for step in tl.static_range(9):
            row, column = index // SIDE + (step // 3 - 1), index % SIDE + (step % 3 - 1)
            inside = (row >= 0) & (row < SIDE) & (column >= 0) & (column < SIDE)
            cell = tl.where(inside, row * SIDE + column, 0)
            values = tl.load(features + cell * channels + channel, mask=channel < channels, other=0.0).to(tl.float32)
            total += tl.where(inside, values, 0.0) * NINTH
        tl.store(around + channel, total, mask=channel < channels)


@triton.jit
def advance_kernel(
    score_ptr,
    size_ptr,
    offset_ptr,
    window_ptr,
    regions_ptr,
    boxes_ptr,
    frame_size_ptr,
    record_ptr,
    features_ptr,
    around_ptr,
    boxes_stride_b,
    boxes_stride_x,
    channels,
    MARGIN: tl.constexpr,
    SIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Grid (batch,). Maps, window, regions and features (None, or [B, SIDE^2, channels]) contiguous; boxes are overwritten; record float64 [B, 12]
    and around float32 [B, channels] contiguous.
    """
    cells: tl.constexpr = SIDE * SIDE
    batch = tl.program_id(0).to(tl.int64)
    cell = tl.arange(0, BLOCK)
    score = tl.load(score_ptr + batch * cells + cell, mask=cell < cells, other=0.0).to(tl.float32)
    weighted = score * tl.load(window_ptr + cell, mask=cell < cells, other=0.0).to(tl.float32)
    # The first maximum; with a NaN, the first cell, as the reference does.
    spoilt = tl.max((weighted != weighted).to(tl.int32), 0) > 0
    best = tl.max(tl.where(cell < cells, tl.where(weighted == weighted, weighted, float("-inf")), float("-inf")), 0)
    index = tl.where(spoilt, 0, tl.min(tl.where((weighted == best) & (cell < cells), cell, cells - 1), 0))
    best = tl.where(spoilt, float("nan"), best)
    raw = tl.load(score_ptr + batch * cells + index).to(tl.float32)

    if features_ptr is not None:
        _mean_around(features_ptr + batch * cells * channels, index, channels, around_ptr + batch * channels, SIDE, BLOCK_C)
    at = batch * 2 * cells + index
    centre_x = tl.div_rn((index % SIDE).to(tl.float32) + tl.load(offset_ptr + at).to(tl.float32), tl.full([], SIDE, tl.float32))
    centre_y = tl.div_rn((index // SIDE).to(tl.float32) + tl.load(offset_ptr + at + cells).to(tl.float32), tl.full([], SIDE, tl.float32))
    side = tl.load(regions_ptr + batch * 3 + 2)
    width, height = tl.load(size_ptr + at).to(tl.float64) * side, tl.load(size_ptr + at + cells).to(tl.float64) * side
    frame_height, frame_width = tl.load(frame_size_ptr).to(tl.float64), tl.load(frame_size_ptr + 1).to(tl.float64)
    margin = tl.full([], MARGIN, tl.float64)
    boxes = boxes_ptr + batch * boxes_stride_b
    x, w, left = _next(boxes, boxes_stride_x, 0, centre_x.to(tl.float64) * side, width, side, frame_width, margin)
    y, h, top = _next(boxes, boxes_stride_x, 1, centre_y.to(tl.float64) * side, height, side, frame_height, margin)

    record = record_ptr + batch * 12
    tl.debug_barrier()  # every warp has read the old box
    tl.store(boxes, x)
    tl.store(boxes + boxes_stride_x, y)
    tl.store(boxes + 2 * boxes_stride_x, w)
    tl.store(boxes + 3 * boxes_stride_x, h)
    tl.store(record, x)
    tl.store(record + 1, y)
    tl.store(record + 2, w)
    tl.store(record + 3, h)
    tl.store(record + 4, raw.to(tl.float64))
    tl.store(record + 5, best.to(tl.float64))
    tl.store(record + 6, side)
    tl.store(record + 7, index.to(tl.float64))
    tl.store(record + 8, left)
    tl.store(record + 9, top)
    tl.store(record + 10, width)
    tl.store(record + 11, height)
