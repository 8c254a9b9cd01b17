"""The public call of the eight-bit products on a GPU."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from esat_kernels import _device, _dispatch
from esat_kernels.linear import fp8, reference, reference_fp8, triton_fp8
from esat_kernels.linear.common import Centred, check_part, group_width, padded_groups
from esat_kernels.linear.fp8 import Scaled, ScaledWeight

_STREAMS = (torch.float32, torch.bfloat16)
_FLOAT32, _BFLOAT16, _E4M3 = (torch.float32,), (torch.bfloat16,), (fp8.E4M3,)


def linear_fp8(
    x: Tensor | Scaled,
    weight: Tensor | ScaledWeight,
    bias: Tensor | None = None,
    *,
    norm_eps: float | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
    out: Tensor | None = None,
    leave: Scaled | Centred | None = None,
    backend: str = "auto",
) -> None:
    """activation(norm?(x) weight^T + bias) + residual of a batch whose items may lie apart, [B, n, K] -> [B, n, N], into memory that is there.

    x and weight: a `Scaled` and what `scaled_weight` made, e4m3 with float32 scales; or both bfloat16, where only what is left has eight bits. K and
    N are multiples of 128. norm_eps: LayerNorm of the stream whose statistics x has; None: x has none, and is the rows themselves.
    activation: None, "gelu" (exact) or "relu". residual [B, n, N] is added last. Sums, scales and statistics are float32; bias [N] and residual are
    float32 or bfloat16.
    out [B, n, N]: float32 or bfloat16, or None. leave: what the next product reads, from `scaled_memory` or `centred_memory`. One of both is needed.
    backend: "auto", "triton" (compute capability 8.9) or "reference".
    ValueError for shapes, devices and numbers, TypeError for dtypes.
    """
    rows, scales, statistics = x if isinstance(x, Scaled) else (x, None, None)
    values, weight_scales, group_sums = weight if isinstance(weight, ScaledWeight) else (weight, None, None)
    _check(rows, values, not isinstance(x, Scaled), not isinstance(weight, ScaledWeight))
    if isinstance(x, Scaled):
        _check_scaled("x", x, tuple(rows.shape), rows.device)
    if isinstance(weight, ScaledWeight):
        outputs, inputs = values.shape
        check_part("linear_fp8: weight.scales", weight_scales, (outputs,), _FLOAT32, rows.device)
        check_part("linear_fp8: weight.group_sums", group_sums, (2, outputs, padded_groups(inputs // fp8.GROUP)), _BFLOAT16, rows.device)
    shape = (*rows.shape[:2], values.shape[0])
    if (norm_eps is None) != (statistics is None):
        raise ValueError("linear_fp8: norm_eps and an x with statistics belong together")
    if norm_eps is not None and not (math.isfinite(norm_eps) and norm_eps > 0):
        raise ValueError(f"linear_fp8: norm_eps must be a positive number, got {norm_eps}")
    if activation not in (None, "gelu", "relu"):
        raise ValueError(f"linear_fp8: activation must be None, 'gelu' or 'relu', got {activation!r}")
    if out is None and leave is None:
        raise ValueError("linear_fp8: nothing would be left: out, leave or both are needed")
    for name, tensor in (("residual", residual), ("out", out)):
        if tensor is not None:
            if tuple(tensor.shape) != shape or tensor.stride(2) != 1 or tensor.device != rows.device:
                raise ValueError(
                    f"linear_fp8: {name} must be {shape} on {rows.device}, rows adjacent in themselves, got {tuple(tensor.shape)}"
                )
            if tensor.dtype not in _STREAMS:
                raise TypeError(f"linear_fp8: {name} must be {' or '.join(map(str, _STREAMS))}, got {tensor.dtype}")
    if bias is not None:
        check_part("linear_fp8: bias", bias, shape[2:], _STREAMS, rows.device)
    left: tuple[Tensor | None, Tensor | None, Tensor | None] = (None, None, None)
    if isinstance(leave, Scaled):
        _check_scaled("leave", leave, shape, rows.device)
        left = leave
    elif leave is not None:
        check_part("linear_fp8: leave.rows", leave.rows, shape, _BFLOAT16, rows.device)
        statistics_shape = (3, shape[0] * shape[1], shape[2] // group_width(shape[2]))
        check_part("linear_fp8: leave.statistics", leave.statistics, statistics_shape, _FLOAT32, rows.device)
        left = (leave.rows, None, leave.statistics)
    candidates = {
        "triton": lambda: triton_fp8.unsupported(rows, values, bias, residual),
        "reference": lambda: reference.unsupported(rows),
    }
    chosen = _dispatch.choose("linear_fp8", backend, candidates, auto=(*_device.verified_backends(rows.device), "reference"))
    of = triton_fp8 if chosen == "triton" else reference_fp8
    eps = 0.0 if norm_eps is None else norm_eps
    of.linear_fp8(rows, scales, statistics, values, weight_scales, group_sums, bias, residual, activation, eps, out, *left)


def fp8_unsupported(device: torch.device, *widths: int) -> str | None:
    """Why `linear_fp8` cannot serve a network with products of so many inputs and outputs on this device, or None; on a CPU the reference does."""
    return _device.fp8_unavailable(device) or fp8.unsupported(*widths)


def _check_scaled(name: str, scaled: Scaled, shape: tuple[int, ...], device: torch.device) -> None:
    """The parts of a `Scaled` [B, n, K]."""
    rows, groups = shape[0] * shape[1], shape[2] // fp8.GROUP
    check_part(f"linear_fp8: {name}.rows", scaled.rows, shape, _E4M3, device)
    check_part(f"linear_fp8: {name}.scales", scaled.scales, (groups, rows), _FLOAT32, device)
    if scaled.statistics is not None:
        check_part(f"linear_fp8: {name}.statistics", scaled.statistics, (3, rows, groups), _FLOAT32, device)


def _check(rows: Tensor, values: Tensor, plain_rows: bool, plain_weight: bool) -> None:
    """The operands of a product."""
    if not isinstance(rows, Tensor) or not isinstance(values, Tensor):
        got = f"{type(rows).__name__} and {type(values).__name__}"
        raise TypeError(f"linear_fp8: x and weight must be tensors, or a `Scaled` and a `ScaledWeight` of tensors, got {got}")
    if rows.dim() != 3 or values.dim() != 2 or rows.shape[2] != values.shape[1] or min(*rows.shape, *values.shape) < 1:
        raise ValueError(f"linear_fp8: expected x [B, n, K] and weight [N, K], got {tuple(rows.shape)} and {tuple(values.shape)}")
    if reason := fp8.unsupported(*values.shape):
        raise ValueError(f"linear_fp8: {reason}")
    if plain_rows != plain_weight:
        raise TypeError("linear_fp8: x and weight must both have scales, or neither")
    wanted = torch.bfloat16 if plain_rows else fp8.E4M3
    if rows.dtype != wanted or values.dtype != wanted:
        raise TypeError(
            f"linear_fp8: x and weight must be {wanted} {'without' if plain_rows else 'with'} scales, got {rows.dtype} and {values.dtype}"
        )
    if values.device != rows.device:
        raise ValueError(f"linear_fp8: weight must be on {rows.device} like x, got {values.device}")
    if rows.stride(2) != 1 or values.stride(1) != 1:
        raise ValueError(f"linear_fp8: rows must be adjacent in themselves, got strides {rows.stride()} and {values.stride()}")
