"""The centre head: score, size and offset maps from the search features (public OSTrack's CenterPredictor)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.config import ModelConfig

BRANCHES = {"ctr": 1, "offset": 2, "size": 2}  # branch -> output channels
_PROBABILITY_FLOOR = 1e-4


def _conv_bn_relu(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def probability(logits: Tensor) -> Tensor:
    """The sigmoid, kept away from 0 and 1 (public code)."""
    return torch.sigmoid(logits).clamp(_PROBABILITY_FLOOR, 1 - _PROBABILITY_FLOOR)


class CenterHead(nn.Module):
    """Three branches of four 3 x 3 Conv-BN-ReLU (widths c, c/2, c/4, c/8) and a 1 x 1 convolution each."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        width = config.head_channels
        widths = [config.dim, width, width // 2, width // 4, width // 8]
        for branch, outputs in BRANCHES.items():
            for layer in range(4):
                setattr(self, f"conv{layer + 1}_{branch}", _conv_bn_relu(widths[layer], widths[layer + 1]))
            setattr(self, f"conv5_{branch}", nn.Conv2d(widths[4], outputs, 1))

    def _branch(self, features: Tensor, branch: str) -> Tensor:
        for layer in range(1, 6):
            features = getattr(self, f"conv{layer}_{branch}")(features)
        return features

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """features [B, dim, F, F] -> score [B, 1, F, F] and size [B, 2, F, F] in [1e-4, 1 - 1e-4], offset [B, 2, F, F] unbounded (cells)."""
        score = probability(self._branch(features, "ctr"))
        size = probability(self._branch(features, "size"))
        return score, size, self._branch(features, "offset")
