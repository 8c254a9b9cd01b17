"""Candidate elimination by the compiled CPU kernels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from esat_kernels import _native


def unsupported_scores(scores: Tensor, *kept: Tensor) -> str | None:
    """Why `select_tokens` cannot take these scores (and write into `kept`), or None."""
    reason = _native.unsupported_tensors(scores, *kept)
    if reason is None and scores.dtype != torch.float32:
        reason = f"scores must be float32, got {scores.dtype}"
    return reason


def unsupported_tokens(tokens: Tensor, kept: Tensor, *out: Tensor) -> str | None:
    """Why `gather_tokens` and `scatter_tokens` cannot take these tensors (and write into `out`), or None."""
    reason = _native.unsupported_tensors(tokens, kept, *out)
    if reason is None and tokens.is_complex():
        reason = f"tokens must be real, got {tokens.dtype}"  # complex tensors may be lazily conjugated views
    return reason


def _rows(tensor: Tensor) -> Tensor:
    """The tensor itself if its last dimension is adjacent in memory, else a copy."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def select_tokens(scores: Tensor, keep: int) -> Tensor:
    """As the reference: int64 [B, keep]."""
    scores = _rows(scores)
    kept = scores.new_empty(scores.shape[0], keep, dtype=torch.int64)
    _native.library().select_tokens(*_selection(scores, kept))
    return kept


def _selection(scores: Tensor, kept: Tensor) -> tuple[int, ...]:
    return scores.data_ptr(), scores.stride(0), *scores.shape, kept.shape[1], kept.data_ptr()


def gather_tokens(tokens: Tensor, kept: Tensor, num_template: int, out: Tensor | None = None) -> Tensor:
    """As the reference, into contiguous memory. IndexError for a position outside the search tokens."""
    tokens, kept = _rows(tokens), kept.contiguous()
    out = tokens.new_empty(tokens.shape[0], num_template + kept.shape[1], tokens.shape[2]) if out is None else out
    _native.library().gather_tokens(*_gathering(tokens, kept, num_template, out))
    return out


def _gathering(tokens: Tensor, kept: Tensor, num_template: int, out: Tensor) -> tuple[int, ...]:
    batch, count, channels = tokens.shape
    width = tokens.element_size()
    return (
        *(tokens.data_ptr(), tokens.stride(0) * width, tokens.stride(1) * width, channels * width),
        *(batch, num_template, count - num_template, kept.data_ptr(), kept.shape[1], out.data_ptr()),
    )


def plan(scores: Tensor, kept: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], num_template: int) -> Callable[[], object]:
    """A call that selects into `kept` and gathers each pair's first tensor into its second. Nothing is checked."""
    calls = [functools.partial(_native.library().select_tokens, *_selection(scores, kept))]
    calls += [functools.partial(_native.library().gather_tokens, *_gathering(tokens, kept, num_template, out)) for tokens, out in pairs]
    call = functools.partial(_run, calls)
    call.memory = scores, kept, tuple(pairs)  # type: ignore[attr-defined]  # lives as long as the call
    return call


def _run(calls: Sequence[Callable[[], object]]) -> None:
    for call in calls:
        call()


def scatter_tokens(tokens: Tensor, kept: Tensor, length: int) -> Tensor:
    """As the reference, into new contiguous memory. IndexError for a position outside [0, length)."""
    tokens, kept = _rows(tokens), kept.contiguous()
    batch, count, channels = tokens.shape
    width = tokens.element_size()
    out = tokens.new_empty(batch, length, channels)
    _native.library().scatter_tokens(
        *(tokens.data_ptr(), tokens.stride(0) * width, tokens.stride(1) * width, channels * width),
        *(batch, kept.data_ptr(), count, length, out.data_ptr()),
    )
    return out
