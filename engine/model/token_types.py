"""Which template tokens are the target's own: how much of each patch its box covers.

A template is a square around the box, so that it says nothing of the box's aspect ratio, nor of what in it belongs to the target. A learned vector on
the covered tokens says both (token type embedding of LoRAT, Lin et al. 2024, here in proportion to the covered part of a patch).
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.config import ModelConfig

PARAMETER = "backbone.token_type_embed"  # of the whole network


def usual_box(config: ModelConfig, batch: int) -> Tensor:
    """float32 [batch, 4]: a square box as large as the template factor says."""
    side = 1 / config.template_factor
    return torch.tensor([0.5, 0.5, side, side], dtype=torch.float32, device="cpu").repeat(batch, 1)


def covered(config: ModelConfig, batch: int, box: Tensor | None) -> Tensor:
    """float32 [batch, num_template]: the share of each template patch inside the target's box, 0 to 1, row by row.

    box: [batch, 4], cx, cy, w, h over the template's side, as `Prediction.box` has it over the search region's. None: `usual_box`.
    """
    if box is None:
        box = usual_box(config, batch)
    corners = torch.arange(config.template_grid, device=box.device, dtype=torch.float32)
    centre, half = config.template_grid * box[:, :2, None].float(), config.template_grid * box[:, 2:, None].float() / 2
    inside = (torch.minimum(corners + 1, centre + half) - torch.maximum(corners, centre - half)).clamp(0, 1)  # [batch, 2, grid]
    return (inside[:, 1, :, None] * inside[:, 0, None, :]).flatten(1)
