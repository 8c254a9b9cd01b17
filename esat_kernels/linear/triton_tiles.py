"""Launch shapes of the Triton products: a pure function of shape, dtypes and device, nothing is tuned at first use.

Devices that `benchmarks.gpu.products` has measured have a table in `esat_kernels/tuned`; others get the tiles that the estimate below
finds cheapest. Its constants are those of an H100's data sheet.
"""

from __future__ import annotations

import dataclasses

import torch

from esat_kernels import _tuned
from esat_kernels._triton import A100_SHARED_MEMORY, cdiv
from esat_kernels.linear.common import COUNTERS

SUM_BLOCK_M, SUM_BLOCK_N, SUM_WARPS = 4, 256, 4
NORMALISE_BLOCK_M, NORMALISE_BLOCK_K, NORMALISE_WARPS = 4, 256, 4

# Estimates for one multiprocessor, by cycle.
_FLOPS = 2900  # of the 16-bit matrix units, as far as tiles keep them busy
_SHARED_BYTES = 24  # from L2 when all multiprocessors read
_OWN_BYTES = 64  # from L2 at most
_SHARED_REST = 1024  # bytes beside the pipeline's stages: barriers
_BLOCK_CYCLES = 1500  # filling the pipeline, epilogue
_LAUNCH_CYCLES = 2500  # a further kernel
_MEETING_CYCLES = 1500  # a part's last write to reach the L2 cache, an atomic there and back, the first read of another part


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Rows, columns and inner elements of a tile (powers of two), parts of the inner dimension, warps, depth of the software pipeline.

    joined: the parts meet in the same launch (`triton_parts.py`), not in a further one.
    """

    block_m: int
    block_n: int
    block_k: int
    splits: int
    num_warps: int
    num_stages: int
    joined: bool = False

    def shared_bytes(self, x_size: int, weight_size: int) -> int:
        """What the pipeline's stages hold, for elements of these bytes."""
        return self.num_stages * self.block_k * (self.block_m * x_size + self.block_n * weight_size)

    def of(self, rows: int, columns: int) -> int:
        """How many make up a result."""
        return cdiv(rows, self.block_m) * cdiv(columns, self.block_n)


_HALF = (
    Tiles(128, 256, 64, 1, 8, 3),
    Tiles(128, 128, 64, 1, 8, 3),
    Tiles(128, 64, 64, 1, 8, 4),
    Tiles(64, 128, 64, 1, 4, 4),
    Tiles(64, 64, 64, 1, 4, 4),
    Tiles(32, 128, 64, 1, 4, 4),
    Tiles(32, 64, 64, 1, 4, 4),
    Tiles(16, 64, 128, 1, 4, 4),
)
_FULL = (Tiles(64, 64, 16, 1, 8, 3), Tiles(32, 64, 16, 1, 4, 3), Tiles(16, 32, 32, 1, 4, 3))
_SPLITS = (1, 2, 3, 4, 6)
_JOINED_ROWS, _JOINED_COLUMNS = 64, 128  # other tiles spill registers
_JOINED_SPLITS = (2, 3)  # more parts are too much for one program to read
_ASYNCHRONOUS_ROWS = 64  # of a tile whose products use sm_90's own matrix instructions


def candidates(inner: int, x_dtype: torch.dtype, weight_dtype: torch.dtype, shared_memory: int = A100_SHARED_MEMORY) -> list[Tiles]:
    """All tiles that may be chosen for an inner dimension and operands of these dtypes, on a device whose blocks can have so much shared memory.

    From 64 rows on the products are asynchronous on sm_90, and Triton 3.6 lets a left operand that is converted in registers overwrite the one
    that a product still reads: where x has another dtype than the weight, all tiles are lower.
    """
    shapes: tuple[Tiles, ...] = _FULL if weight_dtype == torch.float32 else _HALF
    if weight_dtype != torch.float32 and x_dtype != weight_dtype:
        shapes = tuple(tiles for tiles in shapes if tiles.block_m < _ASYNCHRONOUS_ROWS)
    fitting = [tiles for tiles in shapes if tiles.shared_bytes(x_dtype.itemsize, weight_dtype.itemsize) + _SHARED_REST <= shared_memory]
    found = [
        dataclasses.replace(tiles, splits=splits)
        for tiles in fitting
        for splits in _SPLITS
        if splits == 1 or inner >= 4 * splits * tiles.block_k
    ]
    joined = [
        dataclasses.replace(tiles, joined=True)
        for tiles in found
        if tiles.splits in _JOINED_SPLITS and tiles.block_m >= _JOINED_ROWS and tiles.block_n == _JOINED_COLUMNS
    ]
    return found + ([] if weight_dtype == torch.float32 else joined)


def estimated_cycles(
    tiles: Tiles, rows: int, inner: int, columns: int, x_dtype: torch.dtype, weight_dtype: torch.dtype, multiprocessors: int
) -> float:
    """The largest of three ceilings, matrix units, L2 as a whole and one multiprocessor's share of it, and what every block and launch costs."""
    blocks = tiles.of(rows, columns) * tiles.splits
    waves = cdiv(blocks, multiprocessors)
    steps = cdiv(cdiv(inner, tiles.block_k), tiles.splits)
    flops = 2 * tiles.block_m * tiles.block_n * tiles.block_k * steps * min(1, weight_dtype.itemsize / 2)  # e4m3 twice as fast
    read = steps * tiles.shared_bytes(x_dtype.itemsize, weight_dtype.itemsize) // tiles.num_stages
    cycles = (
        max(waves * flops / _FLOPS, blocks * read / (_SHARED_BYTES * multiprocessors), waves * read / _OWN_BYTES) + waves * _BLOCK_CYCLES
    )
    if tiles.joined:  # a program writes its part, and the last one reads the others
        moved = (2 * tiles.splits - 1) * 4 * rows * columns
        own = tiles.splits * 4 * tiles.block_m * tiles.block_n
        cycles += _MEETING_CYCLES + max(own / _OWN_BYTES, moved / (_SHARED_BYTES * multiprocessors))
    elif tiles.splits > 1:
        moved = 2 * 4 * tiles.splits * rows * columns
        cycles += _LAUNCH_CYCLES + moved / (_SHARED_BYTES * multiprocessors)
    return cycles


def product_tiles(
    rows: int,
    inner: int,
    columns: int,
    x_dtype: torch.dtype,
    weight_dtype: torch.dtype,
    multiprocessors: int,
    device: str = "",
    shared_memory: int = A100_SHARED_MEMORY,
    counters: int = COUNTERS,
) -> Tiles:
    """Tiles for x [rows, inner] and weight [columns, inner] among those that fit into a block's shared memory: the device's measured ones if they
    may be chosen, else the cheapest estimate. counters: what the product is given; parts meet only where each tile has one of them, since it takes
    a launch to make others.
    """
    possible = [
        tiles
        for tiles in candidates(inner, x_dtype, weight_dtype, shared_memory)
        if not tiles.joined or tiles.of(rows, columns) <= counters
    ]
    measured = _tuned.chosen(device, "linear", shape_key(rows, inner, columns, x_dtype, weight_dtype), possible)
    return measured or min(
        possible,
        key=lambda tiles: estimated_cycles(tiles, rows, inner, columns, x_dtype, weight_dtype, multiprocessors),
    )


def shape_key(rows: int, inner: int, columns: int, x_dtype: torch.dtype, weight_dtype: torch.dtype) -> str:
    """How a problem is named in a device's table."""
    names = (str(dtype).removeprefix("torch.") for dtype in (x_dtype, weight_dtype))
    return f"{rows}x{inner}x{columns} {' '.join(names)}"
