"""Lower resolution and JPEG for batches of square images, as OpenCV (INTER_AREA, INTER_LINEAR) and libjpeg (4:2:0) compute them, up to rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

# ITU-T T.81, tables K.1 and K.2.
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))  # the upper left; 99 elsewhere


def lower_resolution(images: Tensor, smalls: Sequence[int], qualities: Sequence[int | None]) -> Tensor:
    """BGR [n, 3, S, S] of whole numbers in [0, 255], S a multiple of 16: each shrunk to its side, compressed (quality None: not), enlarged."""
    side = torch.tensor(smalls, device=images.device, dtype=torch.float32)
    down = _shrinking(side, images.shape[-1])
    shrunk = (down.unsqueeze(1) @ images @ down.unsqueeze(1).transpose(2, 3)).round()
    which = [index for index, quality in enumerate(qualities) if quality is not None]
    if which:
        index = torch.as_tensor(which, device=images.device)
        shrunk.index_copy_(0, index, jpeg(shrunk.index_select(0, index), [quality for quality in qualities if quality is not None]))
    up = _enlarging(side, images.shape[-1])
    return (up.unsqueeze(1) @ shrunk @ up.unsqueeze(1).transpose(2, 3)).round().clamp(0, 255)


def _shrinking(side: Tensor, size: int) -> Tensor:
    """[n, S, S]: row i < side averages the pixels under pixel i of the small image; rows beyond repeat the last one."""
    axis = torch.arange(size, device=side.device, dtype=torch.float32)
    ratio = (size / side).view(-1, 1, 1)
    row = torch.minimum(axis.view(1, -1, 1), side.view(-1, 1, 1) - 1)
    low, high = row * ratio, (row + 1) * ratio
    return (torch.minimum(high, axis + 1) - torch.maximum(low, axis)).clamp(min=0) / ratio


def _enlarging(side: Tensor, size: int) -> Tensor:
    """[n, S, S]: row i interpolates between the two pixels of the small image that are nearest to pixel i."""
    axis = torch.arange(size, device=side.device, dtype=torch.float32)
    last = side.view(-1, 1) - 1
    position = torch.minimum(((axis + 0.5) * side.view(-1, 1) / size - 0.5).clamp(min=0), last)
    return (1 - (position.unsqueeze(2) - axis).abs()).clamp(min=0)


def jpeg(images: Tensor, qualities: Sequence[int]) -> Tensor:
    """BGR [n, 3, S, S] of whole numbers in [0, 255], S a multiple of 16, compressed and read again."""
    device = images.device
    blue, green, red = images.unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = torch.stack([(blue - luma) / 1.772, (red - luma) / 1.402], 1)
    scale = torch.tensor([(5000 // q if q < 50 else 200 - 2 * q) for q in qualities], device=device, dtype=torch.float32)
    coarse = torch.full((8, 8), 99.0, device=device)
    coarse[:4, :4] = torch.tensor(_CHROMINANCE, device=device)
    luma = _code(luma.round().unsqueeze(1) - 128, torch.tensor(_LUMINANCE, device=device), scale).squeeze(1) + 128
    halved = _code(avg_pool2d(chroma.round(), 2).round(), coarse, scale)
    cb, cr = interpolate(halved, scale_factor=2, mode="bilinear", align_corners=False).unbind(1)
    found = torch.stack([luma + 1.772 * cb, luma - 0.344136 * cb - 0.714136 * cr, luma + 1.402 * cr], 1)
    return found.round().clamp(0, 255)


def _code(planes: Tensor, table: Tensor, scale: Tensor) -> Tensor:
    """[n, c, S, S] through the quantised cosine transform of 8 x 8 blocks and back, clamped to [-128, 127] and rounded."""
    count, channels, size, _ = planes.shape
    steps = ((table * scale.view(-1, 1, 1) + 50) / 100).floor().clamp(1, 255).view(count, 1, 1, 1, 8, 8)
    index = torch.arange(8, device=planes.device, dtype=torch.float32)
    basis = torch.cos((2 * index + 1) * index.view(-1, 1) * math.pi / 16) / 2
    basis[0] /= math.sqrt(2)
    blocks = planes.view(count, channels, size // 8, 8, size // 8, 8).transpose(3, 4)
    coefficients = (basis @ blocks @ basis.T / steps).round() * steps
    return (basis.T @ coefficients @ basis).round().clamp(-128, 127).transpose(3, 4).reshape(planes.shape)
