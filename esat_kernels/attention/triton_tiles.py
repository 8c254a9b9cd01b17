"""Launch shapes of the Triton attention kernels: a pure function of the problem and the device. No GPU has confirmed or tuned them yet."""

from __future__ import annotations

import dataclasses

import torch

from esat_kernels._triton import cdiv, power_of_two

SCORES_BLOCK = 32
SCORES_WARPS = 4


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


def forward_tiles(tokens: int, slices: int, head_dim: int, dtype: torch.dtype, multiprocessors: int) -> Tiles:
    """Tiles for `slices` = batch * heads problems of N = tokens: the tallest that still gives every multiprocessor a block."""
    if dtype == torch.float32:
        return Tiles(32, 32, 4, 2) if head_dim <= 64 else Tiles(32, 16, 8, 2)
    for height in (128, 64):
        if cdiv(tokens, height) * slices >= multiprocessors:
            return Tiles(height, 64 if height == 128 or head_dim <= 64 else 32, height // 16, 3)
    return Tiles(32, 64, 4, 3)


def queries_tiles(head_dim: int, dtype: torch.dtype) -> Tiles:
    """Tiles of the backward kernel that makes dq: the largest whose registers do not spill on sm_80 and sm_90."""
    if dtype == torch.float32:
        return Tiles(32, 32, 8, 2) if head_dim <= 64 else Tiles(32, 16, 8, 2)
    return Tiles(64, 32, 4, 2) if head_dim <= 64 else Tiles(32, 32, 4, 1)


def keys_tiles(head_dim: int, dtype: torch.dtype) -> Tiles:
    """Tiles of the backward kernel that makes dk and dv; chosen like `queries_tiles`."""
    if dtype == torch.float32:
        return Tiles(32, 32, 8, 2) if head_dim <= 64 else Tiles(16, 16, 4, 2)
    return Tiles(32, 32, 4, 2)
