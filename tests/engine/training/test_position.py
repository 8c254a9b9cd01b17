"""The position heads: sizes of table 2, shapes, and which parts learn."""

import itertools

import pytest
import torch

from engine.config import preset
from engine.model.position import PositionHeads, position_widths
from tests.engine.training.data import TINY


@pytest.mark.parametrize(("shared", "parameters", "macs"), [(False, 6.91, 2.50), (True, 2.7, 1.9)])
def test_sizes_at_full_width_are_those_of_table_2(shared, parameters, macs):
    with torch.device("meta"):
        heads = PositionHeads(preset("esat-384"), shared)
    assert position_widths(768, shared) == ([768, 320, 128, 64] if shared else [768, 384, 192, 64])
    count = sum(value.numel() for value in heads.parameters()) / 1e6
    assert count == pytest.approx(parameters, abs=0.06)
    widths = position_widths(768, shared)
    per_cell = sum(9 * a * b for a, b in itertools.pairwise(widths))
    assert 720 * per_cell / 1e9 + 720 * 64 * 722 / 1e9 == pytest.approx(macs, abs=0.06)


@pytest.mark.parametrize("shared", [False, True])
def test_shapes_and_gradients(shared):
    heads = PositionHeads(TINY, shared)
    template, search = torch.randn(2, 24, 4, 4, requires_grad=True), torch.randn(2, 24, 8, 8, requires_grad=True)
    absolute, positive = heads(template, search)
    assert absolute.shape == (2, 80, 80)
    assert positive.shape == (2, 80, 2)
    positive[:, :16].sum().backward(retain_graph=True)
    assert template.grad is not None
    assert search.grad is None or not search.grad.any()
    (absolute.sum() + positive.sum()).backward()
    assert all(value.grad is not None for value in heads.parameters())
    assert heads.absolute.bias is None
    assert heads.positive.bias is None
