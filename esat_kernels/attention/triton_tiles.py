"""Launch shapes of the Triton attention kernels: a pure function of the problem and the device."""

from __future__ import annotations

import dataclasses

import torch

from esat_kernels import _tuned
from esat_kernels._triton import A100_SHARED_MEMORY, cdiv, power_of_two

SCORES_BLOCK = 32
SCORES_WARPS = 4
_SHARED_REST = 1024  # bytes


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Query rows and keys per tile (powers of two), warps per program, depth of the software pipeline."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


def padded(head_dim: int) -> int:
    """The head dimension as the matrix product sees it: a power of two of at least 16."""
    return max(16, power_of_two(head_dim))


def forward_shared_bytes(tiles: Tiles, head_dim: int, dtype: torch.dtype) -> int:
    """The queries, the stages of keys and values, and barriers."""
    return (tiles.block_m + 2 * tiles.num_stages * tiles.block_n) * padded(head_dim) * dtype.itemsize + _SHARED_REST


def forward_candidates(head_dim: int, dtype: torch.dtype, shared_memory: int = A100_SHARED_MEMORY) -> list[Tiles]:
    """All tiles that the forward may take on a device whose blocks can have so much shared memory, the tallest first."""
    if dtype == torch.float32:
        return [Tiles(32, 32, 4, 2) if head_dim <= 64 else Tiles(32, 16, 8, 2)]
    shapes = [Tiles(128, 64, 8, 3), Tiles(64, 64 if head_dim <= 64 else 32, 4, 3), Tiles(32, 64, 4, 3), Tiles(32, 32, 4, 3)]
    fitting = [tiles for tiles in shapes if forward_shared_bytes(tiles, head_dim, dtype) <= shared_memory]
    return fitting if len(fitting) < len(shapes) else shapes[:-1]  # the last one stands in for those that do not fit


def forward_key(tokens: int, slices: int, head_dim: int, dtype: torch.dtype) -> str:
    """How a problem is named in a device's table."""
    return f"{tokens}x{slices}x{head_dim} {str(dtype).removeprefix('torch.')}"


def forward_tiles(
    tokens: int,
    slices: int,
    head_dim: int,
    dtype: torch.dtype,
    multiprocessors: int,
    device: str = "",
    shared_memory: int = A100_SHARED_MEMORY,
) -> Tiles:
    """Tiles for `slices` = batch * heads problems of N = tokens among those that fit into a block's shared memory: the device's measured ones
    (`esat_kernels/tuned`) if they may be chosen, else the tallest that still give every multiprocessor a block.
    """
    candidates = forward_candidates(head_dim, dtype, shared_memory)
    measured = _tuned.chosen(device, "attention", forward_key(tokens, slices, head_dim, dtype), candidates)
    return measured or next((tiles for tiles in candidates if cdiv(tokens, tiles.block_m) * slices >= multiprocessors), candidates[-1])


def queries_tiles(head_dim: int, dtype: torch.dtype) -> Tiles:
    """Tiles of the backward kernel that makes dq: the largest whose registers do not spill on sm_80 and sm_90.

    From 64 rows on the products are asynchronous on sm_90, and Triton (3.6 to 3.9) lets the next keys overwrite those that one still reads.
    """
    if dtype == torch.float32:
        return Tiles(32, 32, 8, 2) if head_dim <= 64 else Tiles(32, 16, 8, 2)
    return Tiles(32, 64, 4, 2) if head_dim <= 64 else Tiles(32, 32, 4, 1)


def keys_tiles(head_dim: int, dtype: torch.dtype) -> Tiles:
    """Tiles of the backward kernel that makes dk and dv; chosen like `queries_tiles`."""
    if dtype == torch.float32:
        return Tiles(32, 32, 8, 2) if head_dim <= 64 else Tiles(16, 16, 4, 2)
    return Tiles(32, 32, 4, 2)
