"""The public calls of candidate elimination.

backend: "auto" (the C++ kernel for plain CPU tensors that need no gradient, else the reference), "cpu" or "reference".
"""

from __future__ import annotations

import torch
from torch import Tensor

from esat_kernels import _dispatch
from esat_kernels.elimination import native, reference

_AUTO = ("cpu", "reference")


def select_tokens(scores: Tensor, keep: int, backend: str = "auto") -> Tensor:
    """Positions of the `keep` largest of n scores in each row, ascending; ties go to the lower position, NaN counts as the largest.

    scores float [B, n], 1 <= keep <= n -> int64 [B, keep]. No gradient. ValueError for shapes or keep out of range.
    """
    if scores.dim() != 2:
        raise ValueError(f"select_tokens: scores must be [B, n], got {tuple(scores.shape)}")
    if not 1 <= keep <= scores.shape[1]:
        raise ValueError(f"select_tokens: keep must lie in [1, {scores.shape[1]}], got {keep}")
    scores = scores.detach()
    candidates = {"cpu": lambda: native.unsupported_scores(scores), "reference": lambda: reference.unsupported(scores)}
    chosen = _dispatch.choose("select_tokens", backend, candidates, _AUTO)
    return (native if chosen == "cpu" else reference).select_tokens(scores, keep)


def gather_tokens(tokens: Tensor, kept: Tensor, num_template: int, backend: str = "auto") -> Tensor:
    """The num_template first tokens and the search tokens at `kept`: [B, N, C], int64 [B, n] -> [B, num_template + n, C].

    Differentiable in tokens. ValueError for shapes, TypeError for dtypes; a position outside [0, N - num_template) is an IndexError
    (PyTorch's RuntimeError from the reference).
    """
    _check(tokens, kept, "gather_tokens")
    if not 0 <= num_template <= tokens.shape[1]:
        raise ValueError(f"gather_tokens: num_template must lie in [0, {tokens.shape[1]}], got {num_template}")
    return _choose(tokens, kept, "gather_tokens", backend).gather_tokens(tokens, kept, num_template)


def scatter_tokens(tokens: Tensor, kept: Tensor, length: int, backend: str = "auto") -> Tensor:
    """The tokens back at the positions `kept`, which differ, zeros elsewhere: [B, n, C], int64 [B, n] -> [B, length, C].

    Differentiable in tokens. Errors as `gather_tokens`, for positions outside [0, length).
    """
    _check(tokens, kept, "scatter_tokens")
    if tokens.shape[1] != kept.shape[1]:
        raise ValueError(f"scatter_tokens: kept must be {tuple(tokens.shape[:2])}, got {tuple(kept.shape)}")
    if length < tokens.shape[1]:
        raise ValueError(f"scatter_tokens: length must be at least the number of tokens, {tokens.shape[1]}, got {length}")
    return _choose(tokens, kept, "scatter_tokens", backend).scatter_tokens(tokens, kept, length)


def _check(tokens: Tensor, kept: Tensor, op: str) -> None:
    if tokens.dim() != 3 or kept.dim() != 2 or tokens.shape[0] != kept.shape[0]:
        raise ValueError(f"{op}: expected tokens [B, N, C] and kept [B, n], got {tuple(tokens.shape)} and {tuple(kept.shape)}")
    if kept.dtype != torch.int64:
        raise TypeError(f"{op}: kept must be int64, got {kept.dtype}")


def _choose(tokens: Tensor, kept: Tensor, op: str, backend: str):  # type: ignore[no-untyped-def]
    candidates = {"cpu": lambda: native.unsupported_tokens(tokens, kept), "reference": lambda: reference.unsupported(tokens)}
    return native if _dispatch.choose(op, backend, candidates, _AUTO) == "cpu" else reference
