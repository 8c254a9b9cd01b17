"""The position loss's networks (section 3.2, equations 1 and 2): used in training only, never in an engine."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from engine.config import ModelConfig

# The paper says "L stacked Conv-BN-ReLU layers" and gives no widths. These are inferred: at dim 768, 3 x 3 kernels and both classifiers they give
# table 2's parameters and MACs, two separate networks its rows without FDA (99.0 M, 50.9 G), one shared network those with FDA (94.8 M, 50.3 G).
_SEPARATE = (1 / 2, 1 / 4, 1 / 12)  # 768 -> 384 -> 192 -> 64
_SHARED = (5 / 12, 1 / 6, 1 / 12)  # 768 -> 320 -> 128 -> 64


def position_widths(dim: int, shared: bool) -> list[int]:
    """Channels of the position network, the input's first: [768, 384, 192, 64] or, shared, [768, 320, 128, 64] at dim 768."""
    return [dim, *(round(dim * part) for part in (_SHARED if shared else _SEPARATE))]


def _network(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class PositionHeads(nn.Module):
    """Fully convolutional networks on the template and search maps, then two linear classifiers without bias.

    `shared`: one network serves both maps; otherwise each has its own.
    """

    def __init__(self, config: ModelConfig, shared: bool = False):
        super().__init__()
        widths = position_widths(config.dim, shared)
        self.template = _network(widths)
        self.search = self.template if shared else _network(widths)
        self.absolute = nn.Linear(widths[-1], config.num_template + config.num_search, bias=False)
        self.positive = nn.Linear(widths[-1], 2, bias=False)

    def forward(self, template_features: Tensor, search_features: Tensor) -> tuple[Tensor, Tensor]:
        """Maps [B, dim, f, f] and [B, dim, F, F] -> logits [B, f^2 + F^2, f^2 + F^2] (absolute) and [B, f^2 + F^2, 2] (positive-negative)."""
        features = torch.cat([self.template(template_features).flatten(2), self.search(search_features).flatten(2)], 2).transpose(1, 2)
        return self.absolute(features), self.positive(features)
