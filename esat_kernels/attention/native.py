"""Force-directed attention by the compiled CPU kernels (csrc/attention): float32, bfloat16 and float16, D up to 128."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from esat_kernels import _native
from esat_kernels.attention.common import Forces, Scores, address, check_lse, empty_out

MAX_HEAD_DIM = 128
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def unsupported(q: Tensor) -> str | None:
    """Why these kernels cannot take q, k, v like `q`, or None."""
    reason = _native.unavailable()
    if reason is not None:
        return reason
    if not hasattr(_native.library(), "fda_forward"):
        return "the native library was built without the attention kernel"
    if q.device.type != "cpu":
        return f"needs tensors on the cpu, got {q.device}"
    if q.dtype not in _NAMES:
        return f"needs float32, bfloat16 or float16, got {q.dtype}"
    if q.shape[-1] > MAX_HEAD_DIM:
        return f"needs a head dimension of at most {MAX_HEAD_DIM}, got {q.shape[-1]}"
    return None


def unplannable(q: Tensor, k: Tensor, v: Tensor, out: Tensor, scores: Tensor | None) -> str | None:
    """Why `plan` cannot take these tensors, or None."""
    reason = unsupported(q) or _native.unsupported_tensors(q, k, v, out)
    if reason is None and any(tensor.stride(-1) != 1 and tensor.shape[-1] > 1 for tensor in (q, k, v, out)):
        reason = "values of one head must be neighbours"
    if reason is None and scores is not None and not scores.is_contiguous():
        reason = f"scores must be contiguous, got strides {scores.stride()}"
    return reason


def plan(
    q: Tensor, k: Tensor, v: Tensor, forces: Forces, wanted: Scores, out: Tensor, scores: Tensor | None, lse: Tensor | None = None
) -> Callable[[], tuple[int, int, int]]:
    """A forward call on the memory of these tensors, whose last strides are 1; scores and lse if they are to be written.

    Returns what `forward_counted` counts.
    """
    call = functools.partial(
        _native.library().fda_forward,
        _NAMES[q.dtype],
        tuple(q.shape),
        forces,
        *(item for tensor in (q, k, v, out) for item in address(tensor)),
        0 if lse is None or not lse.numel() else lse.data_ptr(),
        0 if scores is None or not scores.numel() else scores.data_ptr(),
        wanted.num_template,
        max(wanted.template_token, 0),
    )
    call.memory = q, k, v, out, scores, lse  # type: ignore[attr-defined]  # lives as long as the call
    return call


def _readable(tensor: Tensor) -> Tensor:
    """The kernels step over batch, head and token by any stride, but read one head's values as neighbours."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def forward_counted(
    q: Tensor, k: Tensor, v: Tensor, forces: Forces, wanted: Scores, with_lse: bool = True
) -> tuple[Tensor, Tensor, Tensor, tuple[int, int, int]]:
    """out, scores and lse as `library.fda_forward`, and what the kernel counted: (blocks of 16 x 16 scores whose attraction was too small to
    matter and was skipped, blocks in all, rows done again with their exact maximum).
    """
    q, k, v = _readable(q), _readable(k), _readable(v)
    batch, heads, tokens, _ = q.shape
    out, scores = empty_out(q), wanted.empty(q)
    lse = q.new_empty((batch, heads, tokens if with_lse else 0), dtype=torch.float32)
    counted = plan(q, k, v, forces, wanted, out, scores, lse)()
    return out, scores, lse, counted


def forward(q: Tensor, k: Tensor, v: Tensor, forces: Forces, wanted: Scores, with_lse: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """As `library.fda_forward`."""
    return forward_counted(q, k, v, forces, wanted, with_lse)[:3]


def backward(dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, forces: Forces) -> tuple[Tensor, Tensor, Tensor]:
    """As `library.fda_backward`."""
    check_lse(lse, q)
    inputs = [_readable(tensor) for tensor in (dout, q, k, v, out)]
    lse = lse.contiguous()
    grads = empty_out(q), empty_out(q), empty_out(q)
    _native.library().fda_backward(
        _NAMES[q.dtype],
        tuple(q.shape),
        forces,
        *(item for tensor in inputs for item in address(tensor)),
        lse.data_ptr(),
        *(grad.data_ptr() for grad in grads),
        address(grads[0])[1],
    )
    return grads
