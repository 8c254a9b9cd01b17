"""Launch shapes of the head's convolutions: a pure function of shape, dtype and multiprocessors."""

from __future__ import annotations

import dataclasses

import torch

from esat_kernels._triton import cdiv, power_of_two

LARGEST_LAST = 64  # channels a branch of the last convolution, which one tile holds

# Estimates for one multiprocessor, by cycle, as for the products (linear/triton_tiles.py).
_FLOPS = 2900
_OWN_BYTES = 64
_STEP_CYCLES = 60  # of a tile's step at least
_BLOCK_CYCLES = 1500


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Cells, output and input channels of a tile (powers of two), warps, depth of the software pipeline."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int


_HALF = ((128, 128, 8, 3), (64, 128, 4, 4), (64, 64, 4, 4), (32, 64, 4, 4), (64, 32, 4, 4), (32, 32, 4, 4), (16, 64, 4, 4), (16, 32, 4, 4))
_FULL = ((32, 64, 4, 3), (16, 64, 4, 3), (16, 32, 4, 3))


def candidates(columns: int, inner: int, dtype: torch.dtype, whole: bool) -> list[Tiles]:
    """All tiles that may be chosen for so many output and input channels of a group. whole: a tile holds all of its output channels."""
    full = dtype == torch.float32
    block_k = max(16, min(32 if full else 64, power_of_two(inner)))
    found = [Tiles(m, n, block_k, warps, stages) for m, n, warps, stages in (_FULL if full else _HALF)]
    if whole:  # registers hold the whole tile once more in float32
        least = max(32, power_of_two(columns))
        found = [tiles for tiles in found if tiles.block_n == least and tiles.block_m <= 64]
    return found


def convolution_tiles(
    rows: int, columns: int, groups: int, inner: int, dtype: torch.dtype, multiprocessors: int, whole: bool = False
) -> Tiles:
    """The cheapest by estimate for `rows` cells and groups of `inner` input and `columns` output channels."""

    def cycles(tiles: Tiles) -> float:
        blocks = cdiv(rows, tiles.block_m) * cdiv(columns, tiles.block_n) * groups
        flops = 2 * tiles.block_m * tiles.block_n * tiles.block_k
        read = dtype.itemsize * tiles.block_k * (tiles.block_m + tiles.block_n)
        steps = 9 * cdiv(inner, tiles.block_k)
        return cdiv(blocks, multiprocessors) * (steps * max(flops / _FLOPS, read / _OWN_BYTES, _STEP_CYCLES) + _BLOCK_CYCLES)

    return min(candidates(columns, inner, dtype, whole), key=cycles)
