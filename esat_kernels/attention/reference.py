"""Force-directed attention as the formula reads (equations 5-7), in plain PyTorch: any device, any float dtype, differentiable."""

from __future__ import annotations

import torch
from torch import Tensor

from esat_kernels.attention.common import Forces, Scores


def unsupported(q: Tensor) -> str | None:
    """The reference runs wherever PyTorch does."""
    return None


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Half-precision inputs are computed in float32; float32 and float64 as they are."""
    return torch.promote_types(dtype, torch.float32)


def logits(q: Tensor, k: Tensor, forces: Forces) -> Tensor:
    """A = scale S + alpha exp(-r) - beta r, with S = q k^T and r = delta |q - k|^2 (equations 5-7).

    q [B, H, M, D], k [B, H, N, D] -> [B, H, M, N] in at least float32. The norms are those of the values as given (already rounded to the
    input's dtype), because a low-precision product sees the same rounded values.
    """
    alpha, beta, delta, scale = forces
    wide = accumulation_dtype(q.dtype)
    q, k = q.to(wide), k.to(wide)
    product = q @ k.transpose(-1, -2)
    if alpha == 0 and beta == 0:
        return scale * product
    squared_distance = (q * q).sum(-1, keepdim=True) + (k * k).sum(-1).unsqueeze(-2) - 2 * product
    repulsion = delta * squared_distance.clamp(min=0)  # rounding may leave a tiny negative distance
    return scale * product + alpha * torch.exp(-repulsion) - beta * repulsion


def attention(q: Tensor, k: Tensor, v: Tensor, forces: Forces) -> tuple[Tensor, Tensor]:
    """softmax(A) v -> out [B, H, N, D] in v's dtype, and the rows' log-sum-exp [B, H, N] in the accumulation dtype."""
    scores = logits(q, k, forces)
    lse = scores.logsumexp(-1)
    out = torch.softmax(scores, -1) @ v.to(scores.dtype)
    return out.to(v.dtype), lse


def elimination_scores(q: Tensor, k: Tensor, forces: Forces, wanted: Scores) -> Tensor:
    """How much one template token attends to each search token, averaged over the heads: float32 [B, N - num_template].

    The softmax runs over all N keys (template and search), as in the public code; only its search columns are returned. No gradient.
    [B, 0] if none are wanted.
    """
    num_template, token = wanted
    if token < 0:
        return wanted.empty(q)
    with torch.no_grad():
        row = logits(q[:, :, token : token + 1], k, forces)
        return torch.softmax(row, -1)[:, :, 0, num_template:].mean(1).float()


def backward(dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, forces: Forces) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk, dv from dout [B, H, N, D], recomputing P = exp(A - lse): the formulas that the fused kernels follow.

    With dP = dout v^T, G = P (dP - rowsum(dP P)) and e = exp(-r):  dS = G (scale + 2 delta (beta + alpha e)),
    dq = dS k - 2 delta q rowsum(G (beta + alpha e)),  dk = dS^T q - 2 delta k colsum(G (beta + alpha e)).
    """
    alpha, beta, delta, scale = forces
    wide = accumulation_dtype(q.dtype)
    q_wide, k_wide, v_wide, dout_wide = (t.to(wide) for t in (q, k, v, dout))
    product = q_wide @ k_wide.transpose(-1, -2)
    squared_distance = (q_wide * q_wide).sum(-1, keepdim=True) + (k_wide * k_wide).sum(-1).unsqueeze(-2) - 2 * product
    repulsion = delta * squared_distance.clamp(min=0)
    attraction = torch.exp(-repulsion)
    probability = torch.exp(scale * product + alpha * attraction - beta * repulsion - lse.unsqueeze(-1).to(wide))
    row = (dout_wide * out.to(wide)).sum(-1, keepdim=True)  # = rowsum(dP P)
    g = probability * (dout_wide @ v_wide.transpose(-1, -2) - row)
    force = g * (beta + alpha * attraction)
    d_product = scale * g + 2 * delta * force
    dq = d_product @ k_wide - 2 * delta * q_wide * force.sum(-1, keepdim=True)
    dk = d_product.transpose(-1, -2) @ q_wide - 2 * delta * k_wide * force.sum(-2).unsqueeze(-1)
    dv = probability.transpose(-1, -2) @ dout_wide
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)
