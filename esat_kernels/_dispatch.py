"""Which backend runs. A backend named by the caller never falls back; `auto` takes the first that can run, and only verified ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

BACKENDS = ("cpu", "triton", "cuda", "reference")


def choose(op: str, backend: str, candidates: Mapping[str, Callable[[], str | None]], auto: tuple[str, ...]) -> str:
    """The backend to use.

    candidates: backend -> a function that says why it cannot run on this input, or None. auto: the order that "auto" tries; names without a
    kernel for this operation are passed over.
    Raises ValueError for an unknown name and NotImplementedError, with the reason, for a named backend that cannot run.
    """
    if backend == "auto":
        return next(name for name in auto if name in candidates and candidates[name]() is None)
    if backend not in BACKENDS:
        raise ValueError(f"{op}: backend must be auto, {', '.join(BACKENDS)}, got {backend!r}")
    if backend not in candidates:
        raise NotImplementedError(f"{op}: backend {backend!r} has no kernel for this operation, use one of {', '.join(candidates)}")
    reason = candidates[backend]()
    if reason is not None:
        raise NotImplementedError(f"{op}: backend {backend!r} cannot run: {reason}")
    return backend


def forward_mode(*tensors: Tensor) -> str | None:
    """Why a kernel, none of which has forward-mode derivatives, cannot take these tensors, or None: its result would have none, silently."""
    for tensor in tensors:
        if forward_ad.unpack_dual(tensor).tangent is not None:
            return "this kernel has no forward-mode derivative"
    return None


def check_out(op: str, out: Tensor, shape: Sequence[int], *inputs: Tensor) -> None:
    """That a result of `shape` can be written into `out`: its dtype and device are those of the first of `inputs`, none of which needs a
    gradient. ValueError, TypeError."""
    first = inputs[0]
    if out.shape != tuple(shape):
        raise ValueError(f"{op}: out must be {tuple(shape)}, got {tuple(out.shape)}")
    if out.dtype != first.dtype:
        raise TypeError(f"{op}: out must be {first.dtype} like the input, got {out.dtype}")
    if out.device != first.device:
        raise ValueError(f"{op}: out must be on {first.device} like the input, got {out.device}")
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (out, *inputs)):
        raise ValueError(f"{op}: a result that is written into out has no gradient")
