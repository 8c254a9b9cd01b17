"""Candidate elimination in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def unsupported(x: Tensor) -> str | None:
    """The reference runs wherever PyTorch does."""
    return None


def select_tokens(scores: Tensor, keep: int) -> Tensor:
    """Positions of the `keep` largest scores of each row, ascending: int64 [B, keep]. Ties: the lower index wins."""
    order = torch.sort(scores, dim=1, descending=True, stable=True).indices
    return order[:, :keep].sort(dim=1).values


def gather_tokens(tokens: Tensor, kept: Tensor, num_template: int) -> Tensor:
    """Template tokens and the kept search tokens: [B, N, C], [B, n] -> [B, num_template + n, C]."""
    channels = tokens.shape[-1]
    search = tokens[:, num_template:].gather(1, kept.unsqueeze(-1).expand(-1, -1, channels))
    return torch.cat([tokens[:, :num_template], search], dim=1)


def scatter_tokens(tokens: Tensor, kept: Tensor, length: int) -> Tensor:
    """Kept tokens back at their places, zeros elsewhere: [B, n, C], [B, n] -> [B, length, C]."""
    out = tokens.new_zeros(tokens.shape[0], length, tokens.shape[-1])
    return out.scatter(1, kept.unsqueeze(-1).expand_as(tokens), tokens)


def eliminate_tokens(
    scores: Tensor, keep: int, tokens: Tensor, attended: Tensor, num_template: int, places: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The selection (or what stays of `places`), and both tensors' template tokens and kept search tokens."""
    kept = select_tokens(scores, keep)
    stays = kept if places is None else places.gather(1, kept)
    return stays, gather_tokens(tokens, kept, num_template), gather_tokens(attended, kept, num_template)
