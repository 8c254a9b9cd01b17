"""The public calls of candidate elimination."""

from __future__ import annotations

import torch
from torch import Tensor

from esat_kernels.elimination import reference


def select_tokens(scores: Tensor, keep: int) -> Tensor:
    """Positions of the `keep` largest of n scores in each row, ascending; ties go to the lower position.

    scores float [B, n], 1 <= keep <= n -> int64 [B, keep]. No gradient. ValueError for shapes or keep out of range.
    """
    if scores.dim() != 2:
        raise ValueError(f"select_tokens: scores must be [B, n], got {tuple(scores.shape)}")
    if not 1 <= keep <= scores.shape[1]:
        raise ValueError(f"select_tokens: keep must lie in [1, {scores.shape[1]}], got {keep}")
    return reference.select_tokens(scores.detach(), keep)


def gather_tokens(tokens: Tensor, kept: Tensor, num_template: int) -> Tensor:
    """The num_template first tokens and the search tokens at `kept`: [B, N, C], int64 [B, n] -> [B, num_template + n, C]."""
    _check(tokens, kept, "gather_tokens")
    return reference.gather_tokens(tokens, kept, num_template)


def scatter_tokens(tokens: Tensor, kept: Tensor, length: int) -> Tensor:
    """The tokens back at the positions `kept`, zeros elsewhere: [B, n, C], int64 [B, n] -> [B, length, C]."""
    _check(tokens, kept, "scatter_tokens")
    if tokens.shape[1] != kept.shape[1]:
        raise ValueError(f"scatter_tokens: kept must be {tuple(tokens.shape[:2])}, got {tuple(kept.shape)}")
    return reference.scatter_tokens(tokens, kept, length)


def _check(tokens: Tensor, kept: Tensor, op: str) -> None:
    if tokens.dim() != 3 or kept.dim() != 2 or tokens.shape[0] != kept.shape[0]:
        raise ValueError(f"{op}: expected tokens [B, N, C] and kept [B, n], got {tuple(tokens.shape)} and {tuple(kept.shape)}")
    if kept.dtype != torch.int64:
        raise TypeError(f"{op}: kept must be int64, got {kept.dtype}")
