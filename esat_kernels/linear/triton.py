"""The linear layer by the Triton kernels: checks, launch shapes, calls. Triton is imported at the first call."""

from __future__ import annotations

import torch
from torch import Tensor

from esat_kernels import _triton, _tuned
from esat_kernels._triton import cdiv
from esat_kernels.linear import triton_tiles as tiling
from esat_kernels.linear.common import Squares
from esat_kernels.linear.triton_tiles import Tiles

_NO_SQUARES = Squares(0, 1, 0)
SQUARES_WIDTHS = (16, 32, 64)  # which every tile of a 16-bit product holds whole
_MAX_ROWS = 2**31 - 2**8  # row numbers are 32-bit, offsets 64-bit


def unsupported(*tensors: Tensor | None) -> str | None:
    """Why these kernels cannot take x, weight, bias and residual, or None."""
    given = [tensor for tensor in tensors if tensor is not None]
    reason = _triton.unsupported(*given)
    if reason is None and max(max(tensor.shape) for tensor in given) > _MAX_ROWS:
        reason = f"no dimension may exceed {_MAX_ROWS}"
    return reason


def squares_unsupported(weight: Tensor, squares: Squares) -> str | None:
    """Why the sums of squares cannot be left by a product with this weight, or None."""
    if weight.dtype == torch.float32:
        return "sums of squares need a weight in bfloat16 or float16"
    if squares.width not in SQUARES_WIDTHS or squares.first % squares.width:
        return f"sums of squares need groups of 16, 32 or 64 columns that start at a multiple of it, got {squares}"
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
        rows, inner, columns = *x.shape, weight.shape[0]
        processors, device, shared = _triton.multiprocessors(x.device), _tuned.device_name(x.device), _triton.shared_memory(x.device)
        tiles = tiling.product_tiles(rows, inner, columns, x.dtype, weight.dtype, processors, device, shared)
        return run_with_squares(x, weight, bias, activation, residual, dtype, tiles, squares)


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


def run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    residual: Tensor | None,
    dtype: torch.dtype,
    tiles: Tiles,
) -> Tensor:
    """activation(x weight^T + bias) + residual with these tiles."""
    return run_with_squares(x, weight, bias, activation, residual, dtype, tiles, None)[0]


def run_with_squares(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    residual: Tensor | None,
    dtype: torch.dtype,
    tiles: Tiles,
    squares: Squares | None,
) -> tuple[Tensor, Tensor]:
    """`run`, and the sums of squares float32 [M, groups], [M, 0] without `squares`."""
    from esat_kernels.linear.triton_kernels import sum_kernel

    rows, columns = x.shape[0], weight.shape[0]
    out = x.new_empty(rows, columns, dtype=dtype)
    first, width, groups = squares or _NO_SQUARES
    found = x.new_empty(rows, groups, dtype=torch.float32)
    if tiles.splits == 1:
        _product(x, weight, bias, residual, out, found if squares else None, squares or _NO_SQUARES, activation, tiles)
        return out, found
    # What stands behind the product is left to the sum: one kernel serves all split products.
    parts = x.new_empty(tiles.splits, rows, columns, dtype=torch.float32)
    _product(x, weight, None, None, parts, None, _NO_SQUARES, None, tiles)
    sum_kernel[(cdiv(rows, tiling.SUM_BLOCK_M), cdiv(columns, tiling.SUM_BLOCK_N))](
        parts, bias, residual, out, found if squares else None, 0 if residual is None else residual.stride(0), rows, columns, first,
        ACTIVATION=activation, WIDTH=width, GROUPS=groups, SPLITS=tiles.splits,
        BLOCK_M=tiling.SUM_BLOCK_M, BLOCK_N=tiling.SUM_BLOCK_N, num_warps=tiling.SUM_WARPS, enable_fp_fusion=True,
    )  # fmt: skip
    return out, found


def _product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    out: Tensor,
    found: Tensor | None,
    squares: Squares,
    activation: str | None,
    tiles: Tiles,
) -> None:
    """The launch: into out [M, N], or the parts' sums into float32 [splits, M, N]."""
    from esat_kernels.linear.triton_kernels import product_kernel

    rows, inner, columns = *x.shape, weight.shape[0]
    product_kernel[(cdiv(rows, tiles.block_m) * cdiv(columns, tiles.block_n), tiles.splits)](
        x, weight, bias, residual, out, found, x.stride(0), weight.stride(0), 0 if residual is None else residual.stride(0),
        rows, inner, columns, squares.first,
        ACTIVATION=activation, WIDTH=squares.width, GROUPS=squares.groups, SPLITS=tiles.splits, WHOLE_K=inner % tiles.block_k == 0,
        BLOCK_M=tiles.block_m, BLOCK_N=tiles.block_n, BLOCK_K=tiles.block_k,
        num_warps=tiles.num_warps, num_stages=tiles.num_stages, enable_fp_fusion=True,
    )  # fmt: skip
