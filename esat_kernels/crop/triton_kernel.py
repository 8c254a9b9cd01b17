# mypy: disallow-untyped-defs=False
# ruff: noqa: N803  (the compile-time arguments of a Triton kernel are written in capitals)
"""Regions of a frame as rows of normalised patches, in Triton: `reference_regions` with the same bits, one patch a program.

The launch must forbid the compiler's own fused multiply-adds: (x + 0.5) scale - 0.5 has two roundings in OpenCV.
"""

from __future__ import annotations

import triton
import triton.language as tl

ROUND64 = tl.constexpr(6755399441055744.0)  # 1.5 * 2^52: adding and subtracting it rounds half to even to whole numbers
ROUND32 = tl.constexpr(12582912.0)  # 1.5 * 2^23
WEIGHT_ONE = tl.constexpr(2048)


@triton.jit
def _round64(x):
    """Half to even; from 2^51 on all numbers that occur are whole already."""
    return tl.where(tl.abs(x) < 2251799813685248.0, (x + ROUND64) - ROUND64, x)


@triton.jit
def _weight(fraction):
    return ((fraction * 2048.0 + ROUND32) - ROUND32).to(tl.int32)


@triton.jit
def _samples(first, side, SIZE: tl.constexpr, PATCH: tl.constexpr):
    """OpenCV's rule for PATCH output pixels from `first` on: the lower source position, and the weights of it and the next."""
    scale = 1.0 / (tl.full([], SIZE, tl.float64) / side)
    centre = (first + tl.arange(0, PATCH)).to(tl.float64) + 0.5
    position = (centre * scale - 0.5).to(tl.float32)
    floor = tl.floor(position)
    fraction = position - floor
    return floor.to(tl.int64), _weight(1.0 - fraction), _weight(fraction)


@triton.jit
def _inside(position, start, side, length):
    """Which frame positions are read. The last column and row are black as soon as the region reaches them."""
    return (position >= tl.maximum(start, 0)) & (position < tl.minimum(start + side, length - 1))


@triton.jit
def _pixel(frame_ptr, frame_bytes, row, column, inside, height, width, channel: tl.constexpr, MATRIX: tl.constexpr):
    """A channel of the pixels at row [PATCH, 1] and column [1, PATCH], int32; 0 where not `inside`. The second bound of each mask keeps a wrong
    frame size from reading foreign memory.
    """
    if MATRIX is None:
        at = (row * width + column) * 3
        value = tl.load(frame_ptr + at + channel, mask=inside & (at <= frame_bytes - 3), other=0).to(tl.int32)
    else:
        at = row * width + column
        chroma = height * width + (row >> 1) * (((width + 1) >> 1) << 1) + ((column >> 1) << 1)
        inside = inside & (at < frame_bytes) & (chroma <= frame_bytes - 2)
        y = tl.load(frame_ptr + at, mask=inside, other=0).to(tl.int32)
        u = tl.load(frame_ptr + chroma, mask=inside, other=0).to(tl.int32) - 128
        v = tl.load(frame_ptr + chroma + 1, mask=inside, other=0).to(tl.int32) - 128
        value = tl.maximum(y - 16, 0) * MATRIX[0] + 524288  # a half of 2^20
        if channel == 0:
            value += v * MATRIX[1]
        elif channel == 1:
            value += v * MATRIX[2] + u * MATRIX[3]
        else:
            value += u * MATRIX[4]
        value = tl.where(inside, tl.minimum(tl.maximum(value >> 20, 0), 255), 0)
    return value


@triton.jit
def _blend(
    frame_ptr, frame_bytes, row, row_inside, weight_y, left, right, left_inside, right_inside, weight0, weight1, height, width,
    channel: tl.constexpr, MATRIX: tl.constexpr,
):  # fmt: skip
    """One source row's share of the output pixels [PATCH, PATCH], in quarters of a grey level."""
    row, row_inside = row[:, None], row_inside[:, None]
    left_pixel = _pixel(frame_ptr, frame_bytes, row, left[None, :], row_inside & left_inside[None, :], height, width, channel, MATRIX)
    right_pixel = _pixel(frame_ptr, frame_bytes, row, right[None, :], row_inside & right_inside[None, :], height, width, channel, MATRIX)
    horizontal = (left_pixel * weight0[None, :] + right_pixel * weight1[None, :]) >> 4
    return (horizontal * weight_y[:, None]) >> 16


@triton.jit(do_not_specialize=["frame_bytes"])
def crop_kernel(
    frame_ptr,
    frame_size_ptr,
    boxes_ptr,
    out_ptr,
    regions_ptr,
    frame_bytes,
    boxes_stride_b,
    boxes_stride_x,
    out_stride_b,
    out_stride_n,
    scale_0,
    scale_1,
    scale_2,
    bias_0,
    bias_1,
    bias_2,
    FACTOR: tl.constexpr,  # a run-time float would be float32
    LARGEST_SIDE: tl.constexpr,
    SIZE: tl.constexpr,
    PATCH: tl.constexpr,
    REVERSE: tl.constexpr,
    MATRIX: tl.constexpr,  # None: rows of three adjacent channels; else of two planes, `nv12.Matrix`
):
    """Grid ((SIZE / PATCH)^2, batch). regions float64 [B, 3] contiguous, written by each item's first program."""
    grid: tl.constexpr = SIZE // PATCH
    patch = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    box = boxes_ptr + batch * boxes_stride_b
    x, y = tl.load(box), tl.load(box + boxes_stride_x)
    w, h = tl.load(box + 2 * boxes_stride_x), tl.load(box + 3 * boxes_stride_x)
    side = tl.ceil(tl.sqrt(w * h) * tl.full([], FACTOR, tl.float64))
    left, top = _round64(x + 0.5 * w - side * 0.5), _round64(y + 0.5 * h - side * 0.5)
    infinity = float("inf")
    valid = (w > 0) & (h > 0) & (side >= 1) & (side <= LARGEST_SIDE) & (tl.abs(left) < infinity) & (tl.abs(top) < infinity)
    if patch == 0:
        nan = float("nan")
        tl.store(regions_ptr + batch * 3, tl.where(valid, left, nan))
        tl.store(regions_ptr + batch * 3 + 1, tl.where(valid, top, nan))
        tl.store(regions_ptr + batch * 3 + 2, tl.where(valid, side, nan))

    full_height, width = tl.load(frame_size_ptr).to(tl.int64), tl.load(frame_size_ptr + 1).to(tl.int64)
    side, height = tl.where(valid, side, 1.0), tl.where(valid, full_height, 0)  # without rows everything is black
    # Beyond these the region is black anyway, and positions stay small.
    left = tl.minimum(tl.maximum(tl.where(valid, left, 0.0), -side), width.to(tl.float64)).to(tl.int64)
    top = tl.minimum(tl.maximum(tl.where(valid, top, 0.0), -side), height.to(tl.float64)).to(tl.int64)
    last = side.to(tl.int64) - 1

    lower, weight0, weight1 = _samples((patch % grid) * PATCH, side, SIZE, PATCH)
    edge = (lower < 0) | (lower >= last)  # one pixel alone: OpenCV does so along x only
    weight0, weight1 = tl.where(edge, WEIGHT_ONE, weight0), tl.where(edge, 0, weight1)
    column = left + tl.minimum(tl.maximum(lower, 0), last)
    left_inside, right_inside = _inside(column, left, last + 1, width), _inside(column + 1, left, last + 1, width)

    lower, upper_weight, lower_weight = _samples((patch // grid) * PATCH, side, SIZE, PATCH)
    upper_row = top + tl.minimum(tl.maximum(lower, 0), last)
    lower_row = top + tl.minimum(tl.maximum(lower + 1, 0), last)
    upper_inside, lower_inside = _inside(upper_row, top, last + 1, height), _inside(lower_row, top, last + 1, height)

    pixels = tl.arange(0, PATCH)[:, None] * PATCH + tl.arange(0, PATCH)[None, :]
    out = out_ptr + batch * out_stride_b + patch.to(tl.int64) * out_stride_n + pixels
    for channel in tl.static_range(3):
        total = _blend(
            frame_ptr, frame_bytes, upper_row, upper_inside, upper_weight, column, column + 1, left_inside, right_inside, weight0, weight1,
            full_height, width, 2 - channel if REVERSE else channel, MATRIX,
        ) + _blend(
            frame_ptr, frame_bytes, lower_row, lower_inside, lower_weight, column, column + 1, left_inside, right_inside, weight0, weight1,
            full_height, width, 2 - channel if REVERSE else channel, MATRIX,
        )  # fmt: skip
        scale = scale_0 if channel == 0 else (scale_1 if channel == 1 else scale_2)
        bias = bias_0 if channel == 0 else (bias_1 if channel == 1 else bias_2)
        value = tl.fma(((total + 2) >> 2).to(tl.float32), scale, bias)
        tl.store(out + channel * PATCH * PATCH, value.to(out_ptr.dtype.element_ty))
