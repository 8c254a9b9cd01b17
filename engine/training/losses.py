"""Equation 8: focal + 2 GIoU + 5 L1 + 0.01 absolute + 0.1 positive-negative."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from engine.config import ModelConfig
from engine.errors import ConfigError
from engine.model.network import Prediction
from engine.training import labels


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of equation 8. `box_cells`: where boxes are supervised, at the score map's `peak` as in the public code, or at all cells of the
    centre's Gaussian, weighted by it (`heat`: more signal from every pair)."""

    focal: float = 1.0
    giou: float = 2.0
    l1: float = 5.0
    absolute: float = 0.01
    positive: float = 0.1
    box_cells: str = "peak"

    def __post_init__(self) -> None:
        if self.box_cells not in ("peak", "heat"):
            raise ConfigError(f"losses: box_cells must be 'peak' or 'heat', got {self.box_cells!r}")
        for name in ("focal", "giou", "l1", "absolute", "positive"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"losses: {name} must be zero or positive, got {getattr(self, name)!r}")

    @property
    def position(self) -> bool:
        """Whether the position heads are needed at all."""
        return self.absolute > 0 or self.positive > 0


def _wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def focal_loss(score: Tensor, target: Tensor) -> Tensor:
    """CornerNet's weighted focal loss (alpha 2, beta 4), summed over the batch's cells and divided by the number of centres.

    score [B, 1, F, F] in (0, 1), target the heat map of the same shape.
    """
    centre = target.eq(1).to(score.dtype)
    positive = torch.log(score) * (1 - score) ** 2 * centre
    negative = torch.log(1 - score) * score**2 * (1 - target) ** 4 * (1 - centre)
    return -(positive.sum() + negative.sum()) / centre.sum().clamp(min=1)


def corners(boxes: Tensor) -> Tensor:
    """cx, cy, w, h -> x1, y1, x2, y2 along the last dimension."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def overlaps(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU (Rezatofghi et al. 2019) of boxes cx, cy, w, h [..., 4], pair by pair -> [...] each."""
    a, b = corners(first), corners(second)
    meet = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = first[..., 2:].prod(-1) + second[..., 2:].prod(-1) - meet
    iou = meet / union.clamp(min=1e-9)
    return iou, iou - (hull - union) / hull.clamp(min=1e-9)


def cell_boxes(prediction: Prediction) -> Tensor:
    """The box that each cell would give: [B, F^2, 4], cx, cy, w, h over the search region's side."""
    size, offset = _wide(prediction.size_map), _wide(prediction.offset_map)
    grid = size.shape[-1]
    axis = torch.arange(grid, device=size.device, dtype=size.dtype)
    x = (axis[None, None, :] + offset[:, 0]) / grid
    y = (axis[None, :, None] + offset[:, 1]) / grid
    return torch.stack([x, y, size[:, 0], size[:, 1]], -1).flatten(1, 2)


def box_losses(prediction: Prediction, boxes: Tensor, heat: Tensor, cells: str, present: Tensor) -> tuple[Tensor, Tensor]:
    """Mean 1 - GIoU and mean absolute error of the supervised boxes against `boxes` [B, 4] of the targets that are `present` [B]."""
    found = cell_boxes(prediction)
    if cells == "peak":
        weight = torch.zeros_like(heat.flatten(1)).scatter_(
            1, prediction.score_map.detach().float().flatten(1).argmax(1, keepdim=True), 1.0
        )
    else:
        weight = heat.flatten(1) * (heat.flatten(1) > 0.1)
    share = present.to(weight.dtype) / present.sum().clamp(min=1)
    weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-9) * share.unsqueeze(1)
    target = boxes[:, None].expand_as(found)
    giou = overlaps(found, target)[1]
    return (weight * (1 - giou)).sum(), (weight * (found - target).abs().mean(-1)).sum()


def total_loss(
    prediction: Prediction,
    position: tuple[Tensor, Tensor] | None,
    boxes: Tensor,
    model: ModelConfig,
    config: LossConfig,
    present: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Equation 8 and its terms (detached, with the mean IoU at the peak). `position`: the position heads' logits, None to leave them out.

    Search tokens that elimination removed take no part in the position losses. Where the target is not `present` (bool [B], None: everywhere)
    the score map alone learns, that nothing is there.
    """
    if present is None:
        present = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    heat = labels.heat_map(boxes, model.search_grid) * present.view(-1, 1, 1, 1)
    focal = focal_loss(_wide(prediction.score_map), heat)
    giou, l1 = box_losses(prediction, boxes, heat, config.box_cells, present)
    total = config.focal * focal + config.giou * giou + config.l1 * l1
    terms = {"focal": focal, "giou": giou, "l1": l1}
    if position is not None:
        grids = (model.template_grid, model.search_grid)
        for name, logits, truth, weight in (
            ("absolute", position[0], labels.absolute_labels(boxes, *grids), config.absolute),
            ("positive", position[1], labels.positive_labels(boxes, *grids), config.positive),
        ):
            truth = labels.ignore_eliminated(truth, prediction.survivors, model.num_template)
            truth = truth.masked_fill(~present.unsqueeze(1), labels.IGNORED)
            summed = cross_entropy(_wide(logits).flatten(0, 1), truth.flatten(), reduction="sum")
            terms[name] = summed / (truth != labels.IGNORED).sum().clamp(min=1)
            total = total + weight * terms[name]
    with torch.no_grad():
        terms["iou"] = (overlaps(prediction.box.float(), boxes)[0] * present).sum() / present.sum().clamp(min=1)
    return total, {name: value.detach() for name, value in ({"total": total} | terms).items()}
