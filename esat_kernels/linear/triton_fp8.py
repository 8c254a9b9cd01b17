"""Eight-bit products by the Triton kernels: checks, launch shapes, calls. Triton is imported at the first call."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from esat_kernels import _device, _triton, _tuned
from esat_kernels._triton import cdiv
from esat_kernels.linear import triton_fp8_tiles as tiling
from esat_kernels.linear.fp8 import GROUP
from esat_kernels.linear.triton import _aligned, too_large
from esat_kernels.linear.triton_tiles import Tiles


def unsupported(*tensors: Tensor | None) -> str | None:
    """Why these kernels cannot take the tensors of a product, or None."""
    given = [tensor for tensor in tensors if tensor is not None]
    return _triton.unsupported(*given) or too_large(*given) or _device.fp8_unavailable(given[0].device)


@torch.library.custom_op("esat::linear_fp8", mutates_args=("out", "left_rows", "left_scales", "left_statistics"))
def linear_fp8(
    x: Tensor,
    scales: Tensor | None,
    statistics: Tensor | None,
    weight: Tensor,
    weight_scales: Tensor | None,
    group_sums: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str | None,
    eps: float,
    out: Tensor | None,
    left_rows: Tensor | None,
    left_scales: Tensor | None,
    left_statistics: Tensor | None,
) -> None:
    """As the reference."""
    left = (left_rows, left_scales, left_statistics)
    work = Work(x, scales, statistics, weight, weight_scales, group_sums, bias, residual, activation, eps, out, *left)
    with _triton.on_device_of(x):
        processors, device, shared = _triton.multiprocessors(x.device), _tuned.device_name(x.device), _triton.shared_memory(x.device)
        tiles = tiling.product_tiles(x.shape[0] * x.shape[1], x.shape[2], weight.shape[0], weight.dtype, processors, device, shared)
        launch(work, tiles)


@linear_fp8.register_fake
def _(*arguments):  # type: ignore[no-untyped-def]
    return None


@dataclasses.dataclass(frozen=True)
class Work:
    """One product with what stands around it: the operator's arguments."""

    x: Tensor
    scales: Tensor | None
    statistics: Tensor | None
    weight: Tensor
    weight_scales: Tensor | None
    group_sums: Tensor | None
    bias: Tensor | None = None
    residual: Tensor | None = None
    activation: str | None = None
    eps: float = 0.0
    out: Tensor | None = None
    left_rows: Tensor | None = None
    left_scales: Tensor | None = None
    left_statistics: Tensor | None = None


def launch(work: Work, tiles: Tiles) -> None:
    """With these tiles; what stands behind a split product is left to the kernel that sums its parts."""
    from esat_kernels.linear.triton_fp8_kernels import fp8_product_kernel, fp8_sum_kernel

    x, weight, residual, out, norm = work.x, work.weight, work.residual, work.out, work.statistics
    item_rows, inner, columns = *x.shape[1:], weight.shape[0]
    rows = x.shape[0] * item_rows
    split = tiles.splits > 1
    parts = x.new_empty(tiles.splits, rows, columns, dtype=torch.float32) if split else None
    around = (work.bias, residual, out)
    left = (work.left_rows, work.left_scales, work.left_statistics)
    strides = (*((0, 0) if residual is None else residual.stride()[:2]), *((0, 0) if out is None else out.stride()[:2]))
    constants = {
        "LEFT_WIDTH": 1 if work.left_statistics is None else columns // work.left_statistics.shape[2],
        "SPLITS": tiles.splits,
        "enable_fp_fusion": True,
        **_triton.launch_options(x.device),
    }
    fp8_product_kernel[(cdiv(rows, tiles.block_m) * (columns // GROUP), tiles.splits)](
        x, work.scales, weight, work.weight_scales, *((None, None, parts) if split else around), norm,
        None if norm is None else work.group_sums, *((None, None, None) if split else left),
        *x.stride()[:2], weight.stride(0), *strides, rows, item_rows, inner, columns, work.eps,
        ACTIVATION=None if split else work.activation, NORM_GROUPS=1 if work.group_sums is None else work.group_sums.shape[2],
        PREFETCH=constants["DEPENDENT"] and _aligned(weight), BLOCK_M=tiles.block_m, BLOCK_K=tiles.block_k,
        num_warps=tiles.num_warps, num_stages=tiles.num_stages, **constants,
    )  # fmt: skip
    if split:
        fp8_sum_kernel[(cdiv(rows, tiling.SUM_BLOCK_M), columns // GROUP)](
            parts, *around, *left, *strides, rows, item_rows, columns,
            ACTIVATION=work.activation, BLOCK_M=tiling.SUM_BLOCK_M, num_warps=tiling.SUM_WARPS, **constants,
        )  # fmt: skip
