"""Several crops of one frame in plain PyTorch: boxes, frame and its size stay on their device, and nothing waits for the host.

The arithmetic is that of `crop_resize`: `region_around` in float64, OpenCV's fixed-point INTER_LINEAR, black outside the frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from esat_kernels.crop.geometry import LARGEST_SIDE
from esat_kernels.crop.nv12 import MATRICES, Matrix, red_green_blue

_WEIGHT_ONE = 2048


def unsupported() -> str | None:
    """The reference runs wherever PyTorch does."""
    return None


def regions_around(boxes: Tensor, factor: float) -> Tensor:
    """`region_around` for boxes float64 [B, 4]: left, top, side as float64 [B, 3]; NaN where it would raise, or the side is too large."""
    x, y, w, h = boxes.unbind(1)
    side = torch.ceil(torch.sqrt(w * h) * factor)
    left = torch.round(x + 0.5 * w - side * 0.5)  # half to even, as the public code does
    top = torch.round(y + 0.5 * h - side * 0.5)
    regions = torch.stack([left, top, side], dim=1)
    valid = (w > 0) & (h > 0) & (side >= 1) & (side <= LARGEST_SIDE) & torch.isfinite(left) & torch.isfinite(top)
    return torch.where(valid[:, None], regions, torch.nan)


def _samples(side: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """OpenCV's rule: the lower source position of each output pixel (-1 to side - 1), and the weights of it and the next, of 2048; [B, size]."""
    scale = 1.0 / (torch.full_like(side, size, dtype=torch.float64) / side)  # a plain number over a tensor would be rounded twice
    centre = torch.arange(size, dtype=torch.float64, device=side.device) + 0.5
    fraction = (centre * scale[:, None] - 0.5).float()
    floor = fraction.floor()
    fraction = fraction - floor
    return floor.long(), torch.round((1 - fraction) * _WEIGHT_ONE).int(), torch.round(fraction * _WEIGHT_ONE).int()


def _inside(position: Tensor, start: Tensor, side: Tensor, length: Tensor) -> Tensor:
    """Which frame positions [B, size] are read. The last column and row are black as soon as the region reaches them (see `reference`)."""
    return (position >= start[:, None].clamp(min=0)) & (position < (start + side).clamp(max=length - 1)[:, None])


def _packed(frame: Tensor, at: Tensor, inside: Tensor) -> Tensor:
    """Pixels int32 [..., 3] at the positions `at` of rows of three adjacent channels; zeros where not `inside`."""
    inside = inside & (3 * at <= frame.numel() - 3)  # a wrong frame_size reads no foreign memory
    offset = torch.where(inside, 3 * at, 0)[..., None] + torch.arange(3, device=frame.device)
    return torch.where(inside[..., None], frame[offset].int(), 0)


def _nv12(frame: Tensor, row: Tensor, column: Tensor, inside: Tensor, frame_size: Tensor, matrix: Matrix) -> Tensor:
    """The same of two planes: luma, and rows of chroma pairs behind it."""
    height, width = frame_size.long().unbind()
    luma = row * width + column
    chroma = height * width + (row // 2) * (2 * ((width + 1) // 2)) + 2 * (column // 2)
    inside = inside & (luma < frame.numel()) & (chroma <= frame.numel() - 2)
    y, u, v = (frame[torch.where(inside, at, 0)].int() for at in (luma, chroma, chroma + 1))
    return torch.where(inside[..., None], torch.stack(red_green_blue(y, u, v, matrix), dim=-1), 0)


def _resized(frame: Tensor, frame_size: Tensor, regions: Tensor, size: int, matrix: Matrix | None) -> Tensor:
    """The regions as pixels int32 [B, size, size, 3], channels in the frame's order; RGB of two planes."""
    valid = ~regions[:, 2].isnan()
    height, width = frame_size.long().unbind()
    side = regions[:, 2].nan_to_num(nan=1.0).long()
    # Beyond these the region is black anyway, and positions stay small.
    left = regions[:, 0].nan_to_num().maximum(-side.double()).minimum(width.double()).long()
    top = regions[:, 1].nan_to_num().maximum(-side.double()).minimum(height.double()).long()

    lower, weight0, weight1 = _samples(side, size)
    last = side[:, None] - 1
    edge = (lower < 0) | (lower >= last)  # one pixel alone: OpenCV does so along x only
    column = left[:, None] + lower.clamp(min=0).minimum(last)
    columns = ((column, torch.where(edge, _WEIGHT_ONE, weight0)), (column + 1, torch.where(edge, 0, weight1)))
    rows = tuple((top[:, None] + (lower + step).clamp(min=0).minimum(last), weight) for step, weight in ((0, weight0), (1, weight1)))

    total = torch.zeros((), dtype=torch.int32, device=frame.device)
    for row, row_weight in rows:
        sum_x = torch.zeros((), dtype=torch.int32, device=frame.device)
        row_inside = _inside(row, top, side, height) & valid[:, None]
        for position, weight in columns:
            inside = row_inside[:, :, None] & _inside(position, left, side, width)[:, None, :]
            if matrix is None:
                pixels = _packed(frame, row[:, :, None] * width + position[:, None, :], inside)
            else:
                pixels = _nv12(frame, row[:, :, None], position[:, None, :], inside, frame_size, matrix)
            sum_x = sum_x + pixels * weight[:, None, :, None]
        total = total + (((sum_x >> 4) * row_weight[:, :, None, None]) >> 16)
    return (total + 2) >> 2


def crop_regions(
    frame: Tensor,
    frame_size: Tensor,
    boxes: Tensor,
    factor: float,
    size: int,
    patch: int,
    out: Tensor,
    reverse: bool,
    scale: Sequence[float],
    bias: Sequence[float],
    matrix: str | None,
) -> Tensor:
    """The resized regions as rows of patches, pixel * scale + bias with one rounding, into out [B, (size / patch)^2, 3 patch^2].

    frame uint8 [at least 3 H W; of two planes, where `matrix` is named, 3/2 H W], frame_size int32 [2] = H, W, boxes float64 [B, 4]
    -> regions float64 [B, 3].
    """
    regions = regions_around(boxes, factor)
    crops = _resized(frame, frame_size, regions, size, None if matrix is None else MATRICES[matrix])
    if reverse:
        crops = crops.flip(3)
    # In float64 both steps are exact enough that rounding to float32 gives what one fused multiply-add does.
    factors, offsets = (
        torch.stack([torch.full((), v, dtype=torch.float32, device=frame.device) for v in t]).double() for t in (scale, bias)
    )
    crops = (crops.double() * factors + offsets).float()
    grid = size // patch
    rows = crops.view(-1, grid, patch, grid, patch, 3).permute(0, 1, 3, 5, 2, 4)
    out.copy_(rows.reshape(-1, grid * grid, 3 * patch * patch))
    return regions
