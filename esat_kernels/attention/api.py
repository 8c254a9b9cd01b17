"""The public calls of force-directed attention: check, choose a backend, run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from esat_kernels import _device, _dispatch
from esat_kernels.attention import cuda, native, reference, triton
from esat_kernels.attention.common import Forces, Scores
from esat_kernels.attention.library import fda_forward

Constants = tuple[float, float, float | None, float | None]  # as the caller gave them
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
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


def _run(
    q: Tensor, k: Tensor, v: Tensor, constants: Constants, backend: str, wanted: Scores, key_norms: Tensor | None
) -> tuple[Tensor, Tensor]:
    """out and the scores, [B, 0] if none are wanted."""
    _check(q, k, v)
    if key_norms is not None and (
        key_norms.shape != q.shape[:3] or key_norms.dtype != torch.float32 or key_norms.device != q.device or key_norms.requires_grad
    ):
        raise ValueError(
            f"attention: key_norms must be {tuple(q.shape[:3])} torch.float32 on {q.device} without a gradient, "
            f"got {tuple(key_norms.shape)} {key_norms.dtype} on {key_norms.device}"
        )
    forces = Forces.of(q.shape[-1], *constants)
    candidates = {
        "cpu": lambda: native.unsupported(q) or _dispatch.forward_mode(q, k, v),
        "triton": lambda: triton.unsupported(q, k, v),
        "cuda": lambda: cuda.unsupported(q, k, v),
        "reference": lambda: reference.unsupported(q),
    }
    chosen = _dispatch.choose("attention", backend, candidates, auto=(*_device.verified_backends(q.device), "cpu", "reference"))
    if chosen == "reference":  # not through the operator, so that PyTorch differentiates it itself, also twice and in float64
        return reference.attention(q, k, v, forces)[0], reference.elimination_scores(q, k, forces, wanted)
    with_lse = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    return fda_forward(q, k, v, *forces, *wanted, chosen, with_lse, key_norms)[:2]


def fda_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: float = 0.1,
    beta: float = 0.1,
    delta: float | None = None,
    scale: float | None = None,
    backend: str = "auto",
    key_norms: Tensor | None = None,
) -> Tensor:
    """Force-directed attention, softmax(scale S + alpha exp(-r) - beta r) v with S = q k^T and r = delta |q - k|^2 (ESAT, equations 5-7).

    q, k, v: [B, H, N, D] of one float dtype, any strides. alpha, beta, delta >= 0 and scale > 0 are plain floats without gradients;
    delta and scale default to D ** -0.5. alpha = beta = 0 is plain attention.
    backend: "auto", "reference", "cpu", "triton" or "cuda"; a named backend never falls back.
    key_norms: |k|^2 of the keys as they are, float32 [B, H, N] of any strides, for backends that would have to make them ("cuda").
    Returns out [B, H, N, D] in the input's dtype; sums run in at least float32. Differentiable in q, k, v.
    The kernels' sums over the keys are up to N 2^64 |v| before they are divided, so |v| of 1e19 / N and more can give infinities.
    Raises ValueError (shapes, devices, constants), TypeError (dtypes), NotImplementedError (a named backend that cannot run, with the reason).
    """
    return _run(q, k, v, (alpha, beta, delta, scale), backend, Scores(), key_norms)[0]


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
    key_norms: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`fda_attention` and, from the same pass, the scores that candidate elimination ranks the search tokens by.

    The first num_template of the N tokens are the template's; template_token in [0, num_template) is the one whose attention row counts.
    Returns out [B, H, N, D] and scores float32 [B, N - num_template]: that row's probabilities at the search tokens, averaged over the heads.
    The scores carry no gradient. Errors as `fda_attention`; ValueError for token numbers outside their range.
    """
    return _run(q, k, v, (alpha, beta, delta, scale), backend, _wanted(q, num_template, template_token), key_norms)


def plan_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    scores: Tensor | None = None,
    num_template: int = 0,
    template_token: int = -1,
    alpha: float = 0.1,
    beta: float = 0.1,
    delta: float | None = None,
    scale: float | None = None,
) -> Callable[[], object]:
    """`fda_attention` by the CPU kernels on memory that is given once: each call of the result reads what then lies in q, k, v and writes out.

    It costs a call of the compiled library and nothing else: everything is checked here. q, k, v and out: [B, H, N, D] of any strides whose
    last is 1; out lies apart from them, and the result keeps all alive. scores, contiguous float32 [B, N - num_template]: those of
    `fda_attention_with_scores` as well. No gradient. Errors as there; NotImplementedError where the kernels cannot run.
    """
    _check(q, k, v)
    wanted = Scores() if scores is None else _wanted(q, num_template, template_token)
    _dispatch.check_out("attention", out, q.shape, q, k, v)
    if scores is not None:
        _dispatch.check_out("attention scores", scores, wanted.empty(q).shape, q.new_empty(0, dtype=torch.float32))
    _dispatch.choose("attention", "cpu", {"cpu": lambda: native.unplannable(q, k, v, out, scores)}, auto=())
    return native.plan(q, k, v, Forces.of(q.shape[-1], alpha, beta, delta, scale), wanted, out, scores)


def _wanted(q: Tensor, num_template: int, template_token: int) -> Scores:
    tokens = q.shape[2] if q.dim() == 4 else 0
    if tokens and not 0 < num_template <= tokens:
        raise ValueError(f"attention: num_template must lie in [1, {tokens}], got {num_template}")
    if not 0 <= template_token < num_template:
        raise ValueError(f"attention: template_token must lie in [0, {num_template}), got {template_token}")
    return Scores(num_template, template_token)
