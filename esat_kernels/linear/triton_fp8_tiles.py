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
_SHAPES = (
    Tiles(128, GROUP, GROUP, 1, 8, 4),
    Tiles(128, GROUP, GROUP, 1, 8, 3),
    Tiles(64, GROUP, GROUP, 1, 4, 4),
    Tiles(64, GROUP, GROUP, 1, 4, 3),
    Tiles(32, GROUP, GROUP, 1, 4, 4),
    Tiles(16, GROUP, GROUP, 1, 4, 4),
)
_ASYNCHRONOUS_ROWS = 64  # sm_90 multiplies e4m3 by its asynchronous instructions alone: of lower tiles Triton would make float16
_SPLITS = (1, 2, 3, 4, 6)
_SHARED_REST = 1024  # bytes beside the pipeline's stages


def candidates(inner: int, dtype: torch.dtype, shared_memory: int = A100_SHARED_MEMORY) -> list[Tiles]:
    """All tiles that may be chosen for operands of this dtype, e4m3 or bfloat16: a step of the inner dimension is as many bytes for both."""
    step = GROUP // dtype.itemsize
    least = _ASYNCHRONOUS_ROWS if dtype == E4M3 else 0
    shapes = (dataclasses.replace(tiles, block_k=step) for tiles in _SHAPES if tiles.block_m >= least)
    return [
        dataclasses.replace(tiles, splits=splits)
        for tiles in shapes
        if tiles.shared_bytes(dtype.itemsize, dtype.itemsize) + _SHARED_REST <= shared_memory
        for splits in _SPLITS
        if splits == 1 or inner >= 4 * splits * tiles.block_k
    ]


def product_tiles(
    rows: int, inner: int, columns: int, dtype: torch.dtype, multiprocessors: int, device: str = "", shared_memory: int = A100_SHARED_MEMORY
) -> Tiles:
    """Tiles for x [rows, inner] and weight [columns, inner], both of this dtype."""
    measured = _tuned.find(device, TABLE, tiling.shape_key(rows, inner, columns, dtype, dtype))
    if measured is not None:
        return Tiles(*measured)  # type: ignore[arg-type]
    return min(
        candidates(inner, dtype, shared_memory),
        key=lambda tiles: tiling.estimated_cycles(tiles, rows, inner, columns, dtype, dtype, multiprocessors),
    )
