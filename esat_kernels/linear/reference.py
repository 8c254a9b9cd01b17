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


def _product(x: Tensor, weight: Tensor, wide: torch.dtype) -> Tensor:
    """x weight^T with sums kept in `wide`: the values are those of weight's dtype, but no sum is rounded to it."""
    if x.device.type == "cuda" and weight.dtype != wide and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)):
        return torch.mm(x, weight.T, out_dtype=wide)  # on the matrix units; exists for CUDA only, and has no gradient
    return x.to(wide) @ weight.to(wide).T
