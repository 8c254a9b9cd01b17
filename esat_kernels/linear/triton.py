"""The linear layer by the Triton kernels: checks, launch shapes, calls. Triton is imported at the first call."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from esat_kernels import _triton, _tuned
from esat_kernels._triton import cdiv
from esat_kernels.linear import triton_tiles as tiling
from esat_kernels.linear.common import Squares
from esat_kernels.linear.triton_tiles import Tiles

SQUARES_WIDTHS = (16, 32, 64)  # which every tile of a 16-bit product holds whole
_MAX_ROWS = 2**31 - 2**8  # row numbers are 32-bit, offsets 64-bit


def unsupported(*tensors: Tensor | None) -> str | None:
    """Why these kernels cannot take x, weight, bias and residual, or None."""
    given = [tensor for tensor in tensors if tensor is not None]
    return _triton.unsupported(*given) or too_large(*given)


def too_large(*tensors: Tensor) -> str | None:
    """Why the rows of one of these tensors, which all but its last dimension make, or its columns cannot be numbered, or None."""
    for tensor in tensors:
        if max(math.prod(tensor.shape[:-1]), tensor.shape[-1]) > _MAX_ROWS:
            return f"neither rows nor columns may exceed {_MAX_ROWS}, got {tuple(tensor.shape)}"
    return None


def squares_unsupported(weight: Tensor, squares: Squares) -> str | None:
    """Why the sums of squares cannot be left by a product with this weight, or None."""
    if weight.dtype == torch.float32:
        return "sums of squares need a weight in bfloat16 or float16"
    if squares.width not in SQUARES_WIDTHS or squares.first % squares.width:
        return f"sums of squares need groups of 16, 32 or 64 columns that start at a multiple of it, got {squares}"
    return None


def centred_unsupported(weight: Tensor) -> str | None:
    """Why rows cannot be normalised between products with this weight, or None."""
    if weight.dtype != torch.bfloat16:  # a row less its origins, which is not divided by its deviation yet, may leave float16's range
        return f"rows that are normalised between products need weights in bfloat16, got {weight.dtype}"
    return None


@torch.library.custom_op("esat::linear", mutates_args=())
def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_eps: float | None,
    activation: str | None,
    residual: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """As the reference."""
    return _linear(x, weight, bias, norm_eps, activation, residual, dtype, None)[0]


@linear.register_fake
def _(x, weight, bias, norm_eps, activation, residual, dtype):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape[0], weight.shape[0], dtype=dtype)


@torch.library.custom_op("esat::linear_with_squares", mutates_args=())
def linear_with_squares(
    x: Tensor, weight: Tensor, bias: Tensor | None, norm_eps: float | None, dtype: torch.dtype, first: int, width: int, groups: int
) -> tuple[Tensor, Tensor]:
    """As the reference."""
    return _linear(x, weight, bias, norm_eps, None, None, dtype, Squares(first, width, groups))


@linear_with_squares.register_fake
def _(x, weight, bias, norm_eps, dtype, first, width, groups):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape[0], weight.shape[0], dtype=dtype), x.new_empty(x.shape[0], groups, dtype=torch.float32)


@torch.library.custom_op("esat::linear_into", mutates_args=("out", "squares", "centred", "left", "counters"))
def linear_into(
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str | None,
    statistics: Tensor | None,
    group_sums: Tensor | None,
    eps: float,
    squares: Tensor | None,
    first: int,
    width: int,
    centred: Tensor | None,
    left: Tensor | None,
    counters: Tensor | None = None,
) -> None:
    """As the reference. counters: from `meeting_counters`."""
    work = Work(x, weight, out, bias, activation, residual, squares, first, width, statistics, group_sums, eps, centred, left, counters)
    with _triton.on_device_of(x):
        launch(work, _tiles(x.shape[0] * x.shape[1], x, weight, 0 if counters is None else counters.numel()))


@linear_into.register_fake
def _(out, x, weight, bias, residual, activation, statistics, group_sums, eps, squares, first, width, centred, left, counters=None):  # type: ignore[no-untyped-def]
    return None


def _linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_eps: float | None,
    activation: str | None,
    residual: Tensor | None,
    dtype: torch.dtype,
    squares: Squares | None,
) -> tuple[Tensor, Tensor]:
    with _triton.on_device_of(x):
        if norm_eps is not None:  # by itself: every column of tiles would read the wide stream again, and normalise it again
            x = normalise(x, norm_eps, weight.dtype)
        out = x.new_empty(x.shape[0], weight.shape[0], dtype=dtype)
        first, width, groups = squares or (0, 1, 0)
        found = x.new_empty(x.shape[0], groups, dtype=torch.float32)
        added = None if residual is None else residual[None]
        launch(
            Work(x[None], weight, out[None], bias, activation, added, found if squares else None, first, width),
            _tiles(x.shape[0], x, weight),
        )
        return out, found


def _tiles(rows: int, x: Tensor, weight: Tensor, counters: int = 0) -> Tiles:
    processors, device, shared = _triton.multiprocessors(x.device), _tuned.device_name(x.device), _triton.shared_memory(x.device)
    return tiling.product_tiles(rows, weight.shape[1], weight.shape[0], x.dtype, weight.dtype, processors, device, shared, counters)


def normalise(x: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Rows of x with mean 0 and variance 1, rounded to dtype: [M, K] contiguous."""
    from esat_kernels.linear.triton_kernels import normalise_kernel

    rows, inner = x.shape
    out = x.new_empty(rows, inner, dtype=dtype)
    normalise_kernel[(cdiv(rows, tiling.NORMALISE_BLOCK_M),)](
        x, out, x.stride(0), rows, inner, eps, BLOCK_M=tiling.NORMALISE_BLOCK_M, BLOCK_K=tiling.NORMALISE_BLOCK_K,
        num_warps=tiling.NORMALISE_WARPS, enable_fp_fusion=True,
    )  # fmt: skip
    return out


@dataclasses.dataclass(frozen=True)
class Work:
    """One product: x [B, n, K] weight [N, K]^T into out [B, n, N], with what stands around it. Rows are adjacent in themselves, strides are free."""

    x: Tensor
    weight: Tensor
    out: Tensor
    bias: Tensor | None = None
    activation: str | None = None
    residual: Tensor | None = None  # [B, n, N]
    squares: Tensor | None = None  # float32 [B * n, groups] of `width` columns from `first` on
    first: int = 0
    width: int = 1
    statistics: Tensor | None = None  # of the stream whose `Centred.rows` x is
    group_sums: Tensor | None = None
    eps: float = 0.0
    centred: Tensor | None = None  # what to leave of out
    left: Tensor | None = None
    counters: Tensor | None = None  # int32 zeros, one for each tile where parts meet in the launch; None: made for this call


def run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    residual: Tensor | None,
    dtype: torch.dtype,
    tiles: Tiles,
    counters: Tensor | None = None,
) -> Tensor:
    """activation(x weight^T + bias) + residual with these tiles: [M, K], [N, K] -> [M, N]."""
    out = x.new_empty(x.shape[0], weight.shape[0], dtype=dtype)
    added = None if residual is None else residual[None]
    launch(Work(x[None], weight, out[None], bias, activation, added, counters=counters), tiles)
    return out


def _aligned(weight: Tensor) -> bool:
    """Whether every row starts at a multiple of 16 bytes."""
    return weight.data_ptr() % 16 == 0 and weight.stride(0) * weight.element_size() % 16 == 0


def launch(work: Work, tiles: Tiles) -> None:
    """With these tiles; where parts do not meet in the launch, what stands behind the product is left to the kernel that sums them."""
    from esat_kernels.linear.triton_kernels import product_kernel, sum_kernel

    x, weight, out, residual, norm = work.x, work.weight, work.out, work.residual, work.statistics
    item_rows, inner, columns = *x.shape[1:], weight.shape[0]
    rows = x.shape[0] * item_rows
    programs = tiles.of(rows, columns)
    parts = x.new_empty(tiles.splits, rows, columns, dtype=torch.float32) if tiles.splits > 1 else None
    counters = None
    if tiles.joined:
        enough = work.counters is not None and work.counters.numel() >= programs
        counters = work.counters if enough else x.new_zeros(programs, dtype=torch.int32)
    summed = parts is not None and counters is None
    behind = (work.bias, residual, out, work.squares, work.centred, work.left)
    now = (None,) * 6 if summed else behind
    strides = (*((0, 0) if residual is None else residual.stride()[:2]), *out.stride()[:2])
    constants = {
        "WIDTH": work.width,
        "GROUPS": 0 if work.squares is None else work.squares.shape[1],
        "LEFT_WIDTH": 1 if work.left is None else columns // work.left.shape[2],
        "SPLITS": tiles.splits,
        "enable_fp_fusion": True,
        **_triton.launch_options(x.device),
    }
    whole = inner % tiles.block_k == 0
    product_kernel[(programs, tiles.splits)](
        x, weight, *now[:4], norm, work.group_sums, *now[4:], parts, counters,
        *x.stride()[:2], weight.stride(0), *strides, rows, item_rows, inner, columns, work.first, work.eps,
        ACTIVATION=None if summed else work.activation, NORM_WIDTH=1 if norm is None else inner // norm.shape[2],
        NORM_GROUPS=1 if work.group_sums is None else work.group_sums.shape[2], WHOLE_K=whole,
        PREFETCH=constants["DEPENDENT"] and whole and _aligned(weight),
        BLOCK_M=tiles.block_m, BLOCK_N=tiles.block_n, BLOCK_K=tiles.block_k,
        num_warps=tiles.num_warps, num_stages=tiles.num_stages, **constants,
    )  # fmt: skip
    if summed:
        sum_kernel[(cdiv(rows, tiling.SUM_BLOCK_M), cdiv(columns, tiling.SUM_BLOCK_N))](
            parts, *behind, *strides, rows, item_rows, columns, work.first,
            ACTIVATION=work.activation, BLOCK_M=tiling.SUM_BLOCK_M, BLOCK_N=tiling.SUM_BLOCK_N, num_warps=tiling.SUM_WARPS, **constants,
        )  # fmt: skip
