"""A linear layer with LayerNorm before and activation and residual behind it, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def unsupported(x: Tensor) -> str | None:
    """The reference runs wherever PyTorch does."""
    return None


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_eps: float | None,
    activation: str | None,
    residual: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """activation(norm(x) weight^T + bias) + residual: [M, K], [N, K] -> [M, N]. Everything but the product's operands is at least float32."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    if norm_eps is not None:
        x = functional.layer_norm(x.to(wide), x.shape[1:], eps=norm_eps)
    out = _product(x.to(weight.dtype), weight, wide)
    if bias is not None:
        out = out + bias.to(wide)
    if activation == "gelu":
        out = functional.gelu(out)
    elif activation == "relu":
        out = out.relu()
    if residual is not None:
        out = out + residual.to(wide)
    return out.to(dtype)


def linear_with_squares(
    x: Tensor, weight: Tensor, bias: Tensor | None, norm_eps: float | None, dtype: torch.dtype, first: int, width: int, groups: int
) -> tuple[Tensor, Tensor]:
    """`linear`, and float32 [M, groups]: the sums of squares of groups of its columns as they were rounded."""
    out = linear(x, weight, bias, norm_eps, None, None, dtype)
    return out, out[:, first : first + width * groups].unflatten(1, (groups, width)).float().square().sum(2)


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
    """out [B, n, N] = activation(norm(x) weight^T + bias) + residual, x [B, n, K]; with `statistics` x is the rows of a `Centred`. squares float32
    [B * n, groups]; centred and left are the parts of the `Centred` of out. counters: not used.
    """
    rows = x.flatten(0, 1)
    added = None if residual is None else residual.flatten(0, 1)
    if statistics is None or group_sums is None:
        found = linear(rows, weight, bias, None, activation, added, out.dtype)
    else:
        wide = torch.promote_types(weight.dtype, torch.float32)
        shift, scale = normalised(statistics, rows.shape[1], eps)
        sums = group_sums[:, :, : shift.shape[1]].to(wide).sum(0)
        found = (_product(rows, weight, wide) + shift.to(wide) @ sums.T) * scale
        found = found if bias is None else found + bias.to(wide)
        found = {None: lambda t: t, "gelu": functional.gelu, "relu": torch.relu}[activation](found)
        found = (found if added is None else found + added.to(wide)).to(out.dtype)
    out.copy_(found.view(out.shape))
    if squares is not None:
        groups = squares.shape[1]
        squares.copy_(found[:, first : first + width * groups].unflatten(1, (groups, width)).float().square().sum(2))
    if centred is not None and left is not None:
        groups = found.float().unflatten(1, (left.shape[2], -1))
        origin = groups.mean(2)
        groups = groups - origin.unsqueeze(2)
        rest = groups.mean(2)
        centred.copy_(groups.view(centred.shape))
        left.copy_(torch.stack([origin, rest, (groups - rest.unsqueeze(2)).square().sum(2)]))


def normalised(statistics: Tensor, columns: int, eps: float) -> tuple[Tensor, Tensor]:
    """What a row's origins lie above its mean [M, groups], and 1 / sqrt(variance + eps) [M, 1]."""
    width = columns // statistics.shape[2]
    origin = statistics[0] - statistics[0, :, :1]  # so that a large mean costs no digits
    means = origin + statistics[1]
    mean = means.mean(1, keepdim=True)
    variance = (statistics[2] + width * (means - mean).square()).sum(1, keepdim=True) / columns
    return origin - mean, torch.rsqrt(variance + eps)


def _product(x: Tensor, weight: Tensor, wide: torch.dtype) -> Tensor:
    """x weight^T with sums kept in `wide`: the values are those of weight's dtype, but no sum is rounded to it."""
    if x.device.type == "cuda" and weight.dtype != wide and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)):
        return torch.mm(x, weight.T, out_dtype=wide)  # on the matrix units; exists for CUDA only, and has no gradient
    return x.to(wide) @ weight.to(wide).T
