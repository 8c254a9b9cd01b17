"""Loss terms against hand-computed values, gradients in float64."""

import dataclasses
import math

import pytest
import torch

from engine.config import preset
from engine.errors import ConfigError
from engine.model.network import Prediction
from engine.training import losses

MODEL = preset("esat-s-256")


def prediction(batch=1, grid=4, dtype=torch.float64, seed=0):
    random = torch.Generator().manual_seed(seed)

    def probability(channels):
        return torch.rand(batch, channels, grid, grid, generator=random, dtype=dtype) * 0.8 + 0.1

    score, size, offset = probability(1), probability(2), probability(2)
    return Prediction(score, size, offset, torch.zeros(batch, 4, dtype=dtype), [], score, score)


def test_focal_loss_by_hand():
    score = torch.tensor([[[[0.5, 0.2]]]], dtype=torch.float64)
    target = torch.tensor([[[[1.0, 0.5]]]], dtype=torch.float64)
    expected = -math.log(0.5) * 0.25 - math.log(0.8) * 0.04 * 0.5**4
    assert float(losses.focal_loss(score, target)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("second", "iou", "giou"),
    [
        ([0.5, 0.5, 0.4, 0.4], 1.0, 1.0),
        ([0.7, 0.5, 0.4, 0.4], 1 / 3, 1 / 3),  # half of each: the hull is the union
        ([0.1, 0.1, 0.2, 0.2], 0.0, 0.2 / 0.49 - 1),  # apart: 0.2 of a hull of 0.7 x 0.7
    ],
)
def test_overlaps_by_hand(second, iou, giou):
    first = torch.tensor([[0.5, 0.5, 0.4, 0.4]], dtype=torch.float64)
    found = losses.overlaps(first, torch.tensor([second], dtype=torch.float64))
    assert [float(value) for value in found] == pytest.approx([iou, giou], abs=1e-6)


def test_cell_boxes_are_what_the_decoder_gives():
    import esat_kernels

    found = prediction(batch=3)
    decoded = esat_kernels.decode_maps(found.score_map, found.size_map, found.offset_map)
    peak = found.score_map.flatten(1).argmax(1)
    assert torch.allclose(losses.cell_boxes(found)[torch.arange(3), peak], decoded.box)


def test_box_losses_at_the_peak_and_over_the_heat():
    found, boxes = prediction(), torch.tensor([[0.4, 0.4, 0.3, 0.3]], dtype=torch.float64)
    heat = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    heat[0, 0, 1, 1], heat[0, 0, 1, 2] = 1.0, 0.5
    cells = losses.cell_boxes(found)[0]
    errors = (cells - boxes).abs().mean(-1)
    there = torch.tensor([True])
    assert float(losses.box_losses(found, boxes, heat, "peak", there)[1]) == pytest.approx(
        float(errors[found.score_map.flatten().argmax()])
    )
    assert float(losses.box_losses(found, boxes, heat, "heat", there)[1]) == pytest.approx(float((errors[5] + 0.5 * errors[6]) / 1.5))


@pytest.mark.parametrize("cells", ["peak", "heat"])
def test_gradients_in_float64(cells):
    found, boxes = prediction(batch=2, grid=2), torch.tensor([[0.4, 0.4, 0.3, 0.3], [0.6, 0.5, 0.2, 0.6]], dtype=torch.float64)
    logits = (torch.randn(2, 5, 5, dtype=torch.float64), torch.randn(2, 5, 2, dtype=torch.float64))
    model = MODEL.replace(template_size=16, search_size=32)

    def total(score, size, offset, absolute, positive):
        maps = dataclasses.replace(found, score_map=score, size_map=size, offset_map=offset)
        return losses.total_loss(maps, (absolute, positive), boxes, model, losses.LossConfig(box_cells=cells))[0]

    inputs = [tensor.clone().requires_grad_() for tensor in (found.score_map, found.size_map, found.offset_map, *logits)]
    assert torch.autograd.gradcheck(total, inputs)


def test_total_is_equation_8():
    boxes = torch.tensor([[0.4, 0.4, 0.3, 0.3]], dtype=torch.float64)
    logits = (torch.randn(1, 20, 20, dtype=torch.float64), torch.randn(1, 20, 2, dtype=torch.float64))
    model = MODEL.replace(template_size=32, search_size=64)
    total, terms = losses.total_loss(prediction(), logits, boxes, model, losses.LossConfig())
    parts = {"focal": 1, "giou": 2, "l1": 5, "absolute": 0.01, "positive": 0.1}
    assert float(total) == pytest.approx(sum(weight * float(terms[name]) for name, weight in parts.items()))


def test_removed_tokens_take_no_part_in_the_position_losses():
    boxes = torch.tensor([[0.4, 0.4, 0.3, 0.3]])
    model = MODEL.replace(template_size=32, search_size=64)
    logits = (torch.randn(1, 20, 20), torch.randn(1, 20, 2))
    found = dataclasses.replace(prediction(dtype=torch.float32), survivors=[torch.tensor([[1, 5, 9]])])
    before = losses.total_loss(found, logits, boxes, model, losses.LossConfig())[1]
    for part in logits:
        part[0, 4 + 2] += 100.0  # search token 2 was removed
    after = losses.total_loss(found, logits, boxes, model, losses.LossConfig())[1]
    assert before["absolute"] == after["absolute"]
    assert before["positive"] == after["positive"]


@pytest.mark.parametrize("cells", ["peak", "heat"])
def test_an_absent_target_teaches_the_score_alone_that_nothing_is_there(cells):
    boxes = torch.tensor([[0.4, 0.4, 0.3, 0.3], [0.6, 0.5, 0.2, 0.6]], dtype=torch.float64)
    model = MODEL.replace(template_size=32, search_size=64)
    found = prediction(batch=2)
    logits = [torch.randn(2, 20, classes, dtype=torch.float64, requires_grad=True) for classes in (20, 2)]
    maps = [tensor.clone().requires_grad_() for tensor in (found.score_map, found.size_map, found.offset_map)]
    found = dataclasses.replace(found, score_map=maps[0], size_map=maps[1], offset_map=maps[2])
    config = losses.LossConfig(box_cells=cells)
    both, terms = losses.total_loss(found, tuple(logits), boxes, model, config, torch.tensor([True, False]))
    alone = losses.total_loss(
        dataclasses.replace(found, score_map=maps[0][:1], size_map=maps[1][:1], offset_map=maps[2][:1], box=found.box[:1]),
        tuple(part[:1] for part in logits), boxes[:1], model, config,
    )[1]  # fmt: skip
    for name in ("giou", "l1", "absolute", "positive", "iou"):
        assert float(terms[name]) == pytest.approx(float(alone[name])), name
    both.backward()
    for tensor in (maps[1], maps[2], *logits):
        assert tensor.grad[0].abs().sum() > 0
        assert tensor.grad[1].abs().sum() == 0
    assert (maps[0].grad[1] > 0).all(), "every score of an absent target is to fall"


def test_a_batch_of_absent_targets_has_finite_losses():
    boxes = torch.tensor([[-0.4, 0.4, 0.3, 0.3]], dtype=torch.float64)
    logits = (torch.randn(1, 20, 20, dtype=torch.float64), torch.randn(1, 20, 2, dtype=torch.float64))
    model = MODEL.replace(template_size=32, search_size=64)
    total, terms = losses.total_loss(prediction(), logits, boxes, model, losses.LossConfig(), torch.tensor([False]))
    assert float(total) == pytest.approx(float(terms["focal"]))
    assert {float(terms[name]) for name in ("giou", "l1", "absolute", "positive")} == {0.0}


@pytest.mark.parametrize("values", [{"box_cells": "all"}, {"focal": -1.0}, {"l1": float("nan")}])
def test_bad_settings_are_refused(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        losses.LossConfig(**values)
