"""The public call of a transformer's products."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from esat_kernels import _device, _dispatch
from esat_kernels.linear import reference, triton
from esat_kernels.linear.common import Squares

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
