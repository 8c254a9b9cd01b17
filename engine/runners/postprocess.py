"""What is read from the network's maps and features around a cell."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def hann_window(side: int) -> Tensor:
    """The outer product of two Hann windows without zero ends, 0.5 (1 - cos(2 pi k / (side + 1))), k = 1..side: float32 [side, side]."""
    k = torch.arange(1, side + 1, dtype=torch.float64, device="cpu")
    window = 0.5 * (1 - torch.cos(2 * math.pi * k / (side + 1)))
    return torch.outer(window, window).float()


class Surroundings:
    """The mean of an encoder's features in the 3 x 3 cells around one cell of a map F x F; cells beyond the border count as zeros."""

    def __init__(self, side: int, device: torch.device):
        cell = torch.arange(side * side, device="cpu").view(-1, 1)
        step = torch.arange(9, device="cpu")
        row, column = cell // side + step // 3 - 1, cell % side + step % 3 - 1
        inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
        self._cells = torch.where(inside, row * side + column, 0).to(device)  # [F * F, 9]
        self._weights = (inside.float() / 9).unsqueeze(2).to(device)  # [F * F, 9, 1]

    def __call__(self, features: Tensor, cell: Tensor) -> Tensor:
        """features [B, F * F, C], cell int64 [B] (row by row) -> float32 [B, C]. Nothing is read by the host."""
        cells = self._cells[cell].unsqueeze(2).expand(-1, -1, features.shape[2])
        return (features.gather(1, cells).float() * self._weights[cell]).sum(dim=1)
