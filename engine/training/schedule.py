"""What a step's number decides: learning rates and the share of kept tokens; and which parameters learn at which rate."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from engine.model import token_types
from engine.training.config import TrainConfig


def rate_factor(step: int, config: TrainConfig) -> float:
    """What the learning rates are multiplied with: linear warm-up, constant, then the decay of the run's last part."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    start = config.steps * (1 - config.decay)
    if step < start:
        return 1.0
    if config.decay_shape == "step":
        return 0.1
    return max(0.0, (config.steps - step) / max(config.steps - start, 1))


def keep_ratio(step: int, config: TrainConfig) -> float:
    """1 before `keep_warmup`, the model's ratio after it, a half cosine between (public OSTrack)."""
    first, last = config.keep_warmup
    final = config.model.keep_ratio
    if step >= last:
        return final
    if step < first:
        return 1.0
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (step - first) / (last - first)))


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """AdamW groups: the backbone layer by layer at its rate, everything else at the head's. No weight decay on vectors."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        rate = config.head_lr
        if name.startswith("network.backbone.") and not name.endswith(token_types.PARAMETER):  # which starts anew, like the head
            depth = config.model.depth
            layer = depth if ".norm." in name and ".blocks." not in name else int(name.split(".")[3]) if ".blocks." in name else -1
            rate = config.backbone_lr * config.layer_decay ** (depth - 1 - layer if layer < depth else 0)
        decay = config.weight_decay if parameter.dim() > 1 and "pos_embed" not in name else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": parameters, "lr": rate, "base_lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()]
