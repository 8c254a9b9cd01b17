"""The public calls of force-directed attention: check, choose a backend, run."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from esat_kernels import _device, _dispatch
from esat_kernels.attention import cuda, native, reference, triton
from esat_kernels.attention.library import fda_forward

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _check(q: Tensor, k: Tensor, v: Tensor, alpha: float, beta: float, delta: float, scale: float) -> None:
    if q.dim() != 4:
        raise ValueError(f"attention: query must be [B, H, N, D], got {tuple(q.shape)}")
    if min(q.shape) < 1:
        raise ValueError(f"attention: query must not be empty, got {tuple(q.shape)}")
    for name, tensor in (("key", k), ("value", v)):
        if tensor.shape != q.shape:
            raise ValueError(f"attention: {name} must be {tuple(q.shape)}, got {tuple(tensor.shape)}")
        if tensor.dtype != q.dtype:
            raise TypeError(f"attention: {name} must be {q.dtype} like the query, got {tensor.dtype}")
        if tensor.device != q.device:
            raise ValueError(f"attention: {name} must be on {q.device} like the query, got {tensor.device}")
    if q.dtype not in _DTYPES:
        raise TypeError(f"attention: dtype must be one of float16, bfloat16, float32, float64, got {q.dtype}")
    for name, value in (("alpha", alpha), ("beta", beta), ("delta", delta)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"attention: {name} must be zero or a positive number, got {value}")
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"attention: scale must be a positive number, got {scale}")


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: float,
    beta: float,
    delta: float | None,
    scale: float | None,
    backend: str,
    num_template: int,
    template_token: int,
) -> tuple[Tensor, Tensor | None]:
    delta = q.shape[-1] ** -0.5 if delta is None else float(delta)
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    alpha, beta = float(alpha), float(beta)
    _check(q, k, v, alpha, beta, delta, scale)
    candidates = {
        "cpu": lambda: native.unsupported(q),
        "triton": lambda: triton.unsupported(q, k, v),
        "cuda": lambda: cuda.unsupported(q, k, v),
        "reference": lambda: reference.unsupported(q),
    }
    chosen = _dispatch.choose("attention", backend, candidates, auto=(*_device.verified_backends(q.device), "cpu", "reference"))
    if chosen == "reference":  # not through the operator, so that PyTorch differentiates it itself, also twice and in float64
        out, _ = reference.attention(q, k, v, alpha, beta, delta, scale)
        if template_token < 0:
            return out, None
        return out, reference.elimination_scores(q, k, alpha, beta, delta, scale, num_template, template_token)
    with_lse = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    out, scores, _ = fda_forward(q, k, v, alpha, beta, delta, scale, num_template, template_token, chosen, with_lse)
    return out, scores if template_token >= 0 else None


def fda_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: float = 0.1,
    beta: float = 0.1,
    delta: float | None = None,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Force-directed attention, softmax(scale S + alpha exp(-r) - beta r) v with S = q k^T and r = delta |q - k|^2 (ESAT, equations 5-7).

    q, k, v: [B, H, N, D] of one float dtype, any strides. alpha, beta, delta >= 0 and scale > 0 are plain floats without gradients;
    delta and scale default to D ** -0.5. alpha = beta = 0 is plain attention.
    backend: "auto", "reference", "cpu", "triton" or "cuda"; a named backend never falls back.
    Returns out [B, H, N, D] in the input's dtype; sums run in at least float32. Differentiable in q, k, v.
    Raises ValueError (shapes, devices, constants), TypeError (dtypes), NotImplementedError (a named backend that cannot run, with the reason).
    """
    return _run(q, k, v, alpha, beta, delta, scale, backend, 0, -1)[0]


def fda_attention_with_scores(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    num_template: int,
    template_token: int,
    alpha: float = 0.1,
    beta: float = 0.1,
    delta: float | None = None,
    scale: float | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """`fda_attention` and, from the same pass, the scores that candidate elimination ranks the search tokens by.

    The first num_template of the N tokens are the template's; template_token in [0, num_template) is the one whose attention row counts.
    Returns out [B, H, N, D] and scores float32 [B, N - num_template]: that row's probabilities at the search tokens, averaged over the heads.
    The scores carry no gradient. Errors as `fda_attention`; ValueError for token numbers outside their range.
    """
    tokens = q.shape[2] if q.dim() == 4 else 0
    if tokens and not 0 < num_template <= tokens:
        raise ValueError(f"attention: num_template must lie in [1, {tokens}], got {num_template}")
    if not 0 <= template_token < num_template:
        raise ValueError(f"attention: template_token must lie in [0, {num_template}), got {template_token}")
    out, scores = _run(q, k, v, alpha, beta, delta, scale, backend, num_template, template_token)
    assert scores is not None
    return out, scores
