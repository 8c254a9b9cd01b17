"""Launch shapes of the eight-bit products: measured ones of the device, else the cheapest by the estimate of `triton_tiles`."""

from __future__ import annotations

import dataclasses

import torch

from esat_kernels import _tuned
from esat_kernels._triton import A100_SHARED_MEMORY
from esat_kernels.linear import triton_tiles as tiling
from esat_kernels.linear.fp8 import E4M3, GROUP
from esat_kernels.linear.triton_tiles import Tiles

SUM_BLOCK_M, SUM_WARPS = 8, 4
TABLE = "linear_fp8"  # the section of a device's table
_HEIGHTS = {128: 8, 64: 4, 32: 4, 16: 4}  # rows of a tile: warps
_STAGES = (4, 3)  # the deepest that fits
_SPLITS = (1, 2, 4, 6)
_ASYNCHRONOUS_ROWS = 64  # sm_90 multiplies e4m3 by its asynchronous instructions alone: of lower tiles Triton would make float16
_SHARED_REST = 1024  # bytes beside the pipeline's stages


def candidates(inner: int, dtype: torch.dtype, shared_memory: int = A100_SHARED_MEMORY) -> list[Tiles]:
    """All tiles that may be chosen for operands of this dtype, e4m3 or bfloat16: a step of the inner dimension is as many bytes for both."""
    least = _ASYNCHRONOUS_ROWS if dtype == E4M3 else 0
    found = []
    for height, warps in _HEIGHTS.items():
        deep = [Tiles(height, GROUP, GROUP // dtype.itemsize, 1, warps, stages) for stages in _STAGES]
        fitting = [tiles for tiles in deep if tiles.shared_bytes(dtype.itemsize, dtype.itemsize) + _SHARED_REST <= shared_memory]
        if height >= least and fitting:
            found += [dataclasses.replace(fitting[0], splits=splits) for splits in _SPLITS]
    return [tiles for tiles in found if tiles.splits == 1 or inner >= 4 * tiles.splits * tiles.block_k]


def product_tiles(
    rows: int, inner: int, columns: int, dtype: torch.dtype, multiprocessors: int, device: str = "", shared_memory: int = A100_SHARED_MEMORY
) -> Tiles:
    """Tiles for x [rows, inner] and weight [columns, inner], both of this dtype."""
    possible = candidates(inner, dtype, shared_memory)
    measured = _tuned.chosen(device, TABLE, tiling.shape_key(rows, inner, columns, dtype, dtype), possible)
    return measured or min(
        possible,
        key=lambda tiles: tiling.estimated_cycles(tiles, rows, inner, columns, dtype, dtype, multiprocessors),
    )
