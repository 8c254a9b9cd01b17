"""The tracker's network: backbone and head, from two normalised images to maps and a box."""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn

import esat_kernels
from engine.config import ModelConfig
from engine.model.backbone import Backbone
from engine.model.head import CenterHead


@dataclasses.dataclass
class Prediction:
    """What the network says of one batch. F is the side of the search grid."""

    score_map: Tensor  # [B, 1, F, F], probabilities
    size_map: Tensor  # [B, 2, F, F], width and height over the search region's side
    offset_map: Tensor  # [B, 2, F, F], cells
    box: Tensor  # [B, 4], cx, cy, w, h over the search region's side, at the maximum of the score map (no Hann window)
    survivors: list[Tensor]  # after each elimination the search positions left, ascending, [B, n] int64
    template_features: Tensor  # [B, dim, f, f]
    search_features: Tensor  # [B, dim, F, F], zeros where eliminated


class EsatNetwork(nn.Module):
    """ESAT (or OSTrack, when alpha = beta = 0). Parameter names are those of the public OSTrack checkpoints."""

    def __init__(self, config: ModelConfig, backend: str = "auto"):
        super().__init__()
        self.config = config
        self.backbone = Backbone(config, backend)
        self.box_head = CenterHead(config)

    def forward(self, template: Tensor, search: Tensor, keep_ratio: float | None = None, template_box: Tensor | None = None) -> Prediction:
        """template [B, 3, S_z, S_z] and search [B, 3, S_x, S_x], RGB normalised by the ImageNet statistics. template_box [B, 4]: the target in
        the template, cx, cy, w, h over its side, read by models with `token_types`; None: a square of the usual size."""
        config = self.config
        z, x, survivors = self.backbone(template, search, keep_ratio, template_box)
        template_features = z.transpose(1, 2).unflatten(2, (config.template_grid, config.template_grid))
        search_features = x.transpose(1, 2).unflatten(2, (config.search_grid, config.search_grid))
        score, size, offset = self.box_head(search_features)
        decoded = esat_kernels.decode_maps(score, size, offset)
        return Prediction(score, size, offset, decoded.box, survivors, template_features, search_features)


def build_model(config: ModelConfig, backend: str = "auto") -> EsatNetwork:
    """The PyTorch reference model of `config` with fresh parameters, in training mode. `backend` names the attention kernel's backend."""
    return EsatNetwork(config, backend)
