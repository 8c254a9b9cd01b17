"""The public call of a transformer's products."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from esat_kernels import _device, _dispatch
from esat_kernels.linear import reference, triton
from esat_kernels.linear.common import COUNTERS, Centred, Squares, check_part, group_width, padded_groups, split_sums

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm_eps: float | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
    dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> Tensor:
    """activation(norm(x) weight^T + bias) + residual, in one pass: [M, K], [N, K] -> [M, N].

    norm_eps: each row of x has its mean removed and is divided by sqrt(variance + norm_eps) first, LayerNorm without gain and bias, which
    belong into weight and bias; None: x as it is. activation: None, "gelu" (exact) or "relu". residual [M, N] is added last.
    The product's operands are rounded to weight's dtype and summed in float32; statistics, bias, activation and residual are float32.
    x, weight, bias, residual: float32, bfloat16 or float16, each its own, rows adjacent in themselves.
    dtype of the result: by default the residual's, without one x's.
    backend: "auto", "triton" (no gradient) or "reference".
    ValueError for shapes, devices and numbers, TypeError for dtypes.
    """
    _check(x, weight, bias, norm_eps, activation, residual, dtype)
    if dtype is None:
        dtype = x.dtype if residual is None else residual.dtype
    candidates = {"triton": lambda: triton.unsupported(x, weight, bias, residual), "reference": lambda: reference.unsupported(x)}
    chosen = _dispatch.choose("linear", backend, candidates, auto=(*_device.verified_backends(x.device), "reference"))
    return (triton if chosen == "triton" else reference).linear(x, weight, bias, norm_eps, activation, residual, dtype)


def linear_with_squares(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    first: int,
    width: int,
    groups: int,
    norm_eps: float | None = None,
    dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """`linear` without activation and residual, and from the same pass float32 [M, groups]: for each row the sums of squares, as they were
    rounded, of `groups` groups of `width` columns from column `first` on. With x and weight of q, k and v these are |k|^2 of each head.

    backend: "auto", "triton" (a weight in 16 bits, groups of 16, 32 or 64 columns that start at a multiple of it) or "reference".
    Raises as `linear`; ValueError for groups that do not lie in the N columns.
    """
    _check(x, weight, bias, norm_eps, None, None, dtype)
    if width < 1 or groups < 1 or first < 0 or first + width * groups > weight.shape[0]:
        raise ValueError(f"linear: {groups} groups of {width} columns from {first} on must lie in {weight.shape[0]} columns")
    chosen = _dispatch.choose(
        "linear",
        backend,
        {
            "triton": lambda: triton.unsupported(x, weight, bias) or triton.squares_unsupported(weight, Squares(first, width, groups)),
            "reference": lambda: reference.unsupported(x),
        },
        auto=(*_device.verified_backends(x.device), "reference"),
    )
    of = triton if chosen == "triton" else reference
    return of.linear_with_squares(x, weight, bias, norm_eps, x.dtype if dtype is None else dtype, first, width, groups)


def linear_into(
    out: Tensor,
    x: Tensor | Centred,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    group_sums: Tensor | None = None,
    norm_eps: float | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
    squares: Tensor | None = None,
    first: int = 0,
    width: int = 1,
    leave: Centred | None = None,
    counters: Tensor | None = None,
    backend: str = "auto",
) -> None:
    """`linear` into memory that is there, of a batch whose items may lie apart: x [B, n, K] and residual [B, n, N] -> out [B, n, N].

    x: with `norm_eps` what an earlier call left of the stream, and `group_sums` are those of weight, by the function of that name; without it
    the rows themselves. leave: memory from `centred_memory(out)`, in which the next product finds the normalised rows of out.
    squares: float32 [B * n, groups], which gets the sums that `linear_with_squares` leaves, of groups of `width` columns from `first` on.
    counters: from `meeting_counters`, common to calls that run one after another; they save a launch where a product is split.
    backend: "auto", "triton" (no gradient; a weight in bfloat16 where rows are normalised or squares left) or "reference". ValueError for shapes,
    devices and numbers, TypeError for dtypes.
    """
    rows, statistics = (x.rows, x.statistics) if isinstance(x, Centred) else (x, None)
    if out.dim() != 3 or rows.dim() != 3 or out.shape[:2] != rows.shape[:2]:
        raise ValueError(f"linear_into: expected x [B, n, K] and out [B, n, N], got {tuple(rows.shape)} and {tuple(out.shape)}")
    shape = (rows.shape[0] * rows.shape[1], weight.shape[0])
    if residual is not None and residual.shape != out.shape:
        raise ValueError(f"linear_into: residual must be {tuple(out.shape)}, got {tuple(residual.shape)}")
    added = None if residual is None else residual[0, :1].expand(shape[0], -1)
    _check(rows[0, :1].expand(shape[0], -1), weight, bias, norm_eps, activation, added, out.dtype)
    if out.shape[2] != shape[1] or out.stride(2) != 1 or out.device != rows.device:
        raise ValueError(f"linear_into: out must be {(*rows.shape[:2], shape[1])} on {rows.device} with rows adjacent in themselves")
    if (statistics is None) != (norm_eps is None) or (statistics is None) != (group_sums is None):
        raise ValueError("linear_into: a Centred x, norm_eps and group_sums belong together")
    if statistics is not None:
        groups = _groups(rows)
        check_part("linear_into: x.statistics", statistics, (3, shape[0], groups), (torch.float32,), rows.device)
        check_part("linear_into: group_sums", group_sums, (2, shape[1], padded_groups(groups)), (torch.bfloat16,), rows.device)
    if squares is not None and (
        squares.dim() != 2 or squares.shape[0] != shape[0] or width < 1 or first < 0 or first + width * squares.shape[1] > shape[1]
    ):
        raise ValueError(
            f"linear_into: squares of groups of {width} columns from {first} on must be [{shape[0]}, groups], within {shape[1]} columns"
        )
    if squares is not None:
        check_part("linear_into: squares", squares, (shape[0], squares.shape[1]), (torch.float32,), rows.device)
    if leave is not None:
        check_part("linear_into: leave.rows", leave.rows, tuple(out.shape), (torch.bfloat16,), rows.device)
        check_part("linear_into: leave.statistics", leave.statistics, (3, shape[0], _groups(out)), (torch.float32,), rows.device)
    if counters is not None:
        check_part("linear_into: counters", counters, (COUNTERS,), (torch.int32,), rows.device)
    wanted = Squares(first, width, 0 if squares is None else squares.shape[1])
    chosen = _dispatch.choose(
        "linear",
        backend,
        {
            "triton": lambda: (
                triton.unsupported(rows, weight, bias, residual)
                or (None if squares is None else triton.squares_unsupported(weight, wanted))
                or (triton.centred_unsupported(weight) if statistics is not None or leave is not None else None)
            ),
            "reference": lambda: reference.unsupported(rows),
        },
        auto=(*_device.verified_backends(rows.device), "reference"),
    )
    of = triton if chosen == "triton" else reference
    centred, left = (None, None) if leave is None else leave
    eps = 0.0 if norm_eps is None else norm_eps
    of.linear_into(
        out, rows, weight, bias, residual, activation, statistics, group_sums, eps, squares, first, width, centred, left, counters
    )


def meeting_counters(device: torch.device) -> Tensor:
    """Counters for products whose parts meet in one launch: int32 zeros, and zeros again after each. Launches that are given the same ones have to
    run one after another. A product of more tiles, or without counters, adds its parts in a launch of its own.
    """
    return torch.zeros(COUNTERS, dtype=torch.int32, device=device)


def centred_memory(out: Tensor) -> Centred | None:
    """Memory for what a product leaves of out [B, n, N]; None if N is no multiple of 16."""
    width = group_width(out.shape[2])
    if not width:
        return None
    batch, count, columns = out.shape
    return Centred(
        out.new_empty(batch, count, columns, dtype=torch.bfloat16),
        out.new_empty(3, batch * count, columns // width, dtype=torch.float32),
    )


def group_sums(weight: Tensor) -> Tensor:
    """For each row of weight [N, K] the sums of its groups of columns, in two parts that add up: bfloat16 [2, N, G], zeros behind the K / width-th.

    G is a power of two and at least 16. ValueError if K is no multiple of 16.
    """
    width = group_width(weight.shape[1])
    if not width:
        raise ValueError(f"group_sums: the columns of weight must be a multiple of 16, got {tuple(weight.shape)}")
    sums = weight.float().unflatten(1, (-1, width)).sum(2)
    return split_sums(sums)


def _groups(stream: Tensor) -> int:
    """Of a stream [B, n, K] that is normalised between products. ValueError for what has no groups."""
    width = group_width(stream.shape[2])
    if not width:
        raise ValueError(f"linear_into: rows that are normalised between products need a multiple of 16 columns, got {tuple(stream.shape)}")
    return stream.shape[2] // width


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_eps: float | None,
    activation: str | None,
    residual: Tensor | None,
    dtype: torch.dtype | None,
) -> None:
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1] or min(*x.shape, *weight.shape) < 1:
        raise ValueError(f"linear: expected x [M, K] and weight [N, K], got {tuple(x.shape)} and {tuple(weight.shape)}")
    rows, columns = x.shape[0], weight.shape[0]
    tensors = {"x": x, "weight": weight}
    for name, tensor, shape in (("bias", bias, (columns,)), ("residual", residual, (rows, columns))):
        if tensor is not None:
            tensors[name] = tensor
            if tuple(tensor.shape) != shape:
                raise ValueError(f"linear: {name} must be {shape}, got {tuple(tensor.shape)}")
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"linear: {name} must be float32, bfloat16 or float16, got {tensor.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"linear: {name} must be on {x.device} like x, got {tensor.device}")
        if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            raise ValueError(f"linear: rows of {name} must be adjacent in themselves, got strides {tensor.stride()}")
    if dtype is not None and dtype not in _DTYPES:
        raise TypeError(f"linear: dtype must be float32, bfloat16 or float16, got {dtype}")
    if norm_eps is not None and not (math.isfinite(norm_eps) and norm_eps > 0):
        raise ValueError(f"linear: norm_eps must be a positive number, got {norm_eps}")
    if activation not in (None, "gelu", "relu"):
        raise ValueError(f"linear: activation must be None, 'gelu' or 'relu', got {activation!r}")
