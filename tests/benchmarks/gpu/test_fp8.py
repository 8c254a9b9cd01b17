"""The checks of the eight-bit products' part of `make gpu`, on a CPU by the reference: what is right passes, and what is a little wrong does not."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from benchmarks.gpu import fp8
from esat_kernels.linear import reference_fp8
from tests.engine.runners.gpu import models

CPU = torch.device("cpu")
SMALL = [
    fp8.Product(name, 21, inputs, outputs)
    for name, inputs, outputs in (("projection", 128, 256), ("mlp_in", 256, 128), ("mlp_out", 256, 256))
]


def by_reference(work, tiles):
    reference_fp8.linear_fp8(**{field.name: getattr(work, field.name) for field in dataclasses.fields(work)})


@pytest.mark.parametrize("product", SMALL, ids=lambda product: product.name)
def test_the_reference_is_right_and_a_group_s_wrong_scale_is_not(product):
    rows = fp8.rows_of(product, by_reference, timed=False, device=CPU)
    assert len(rows) >= 2
    assert all(row["ok"] for row in rows)

    def wrong(work, tiles):
        by_reference(work, tiles)
        part = work.left_statistics[0] if work.left_scales is None else work.left_scales
        part[0, 5] = part[0, 5] * 1.2 + 0.02

    assert not any(row["ok"] for row in fp8.rows_of(product, wrong, timed=False, device=CPU))


def test_a_residual_that_is_missing_is_found():
    def wrong(work, tiles):
        by_reference(dataclasses.replace(work, residual=None), tiles)

    assert not any(row["ok"] for row in fp8.rows_of(SMALL[0], wrong, timed=False, device=CPU))


def test_a_frame_s_products_and_the_fastest_tiles():
    found = fp8.frame_products("esat-384")
    assert {(product.name, product.inputs, product.outputs) for product in found} == {
        ("projection", 768, 768),
        ("mlp_in", 768, 3072),
        ("mlp_out", 3072, 768),
    }
    assert {product.rows for product in found} == {720, 548, 427, 343, 199}
    rows = [{"key": "a", "tiles": [n], "ok": n != 1, "median_us": n} for n in (3, 1, 2)]
    assert fp8.fastest([*rows, {"key": "b", "tiles": [1], "ok": False}]) == {"a": [2]}


def test_frames_are_timed_in_turn():
    weights = models.weights(dim=128, heads=2, depth=2, elimination_layers=(1,), template_size=32, search_size=64)
    times = iter([4.0, 3.0, 4.1, 3.1])
    found = fp8.frames(weights, "reference", CPU, lambda call: call() and {"median_ms": next(times)}, repetitions=2)
    assert found["ok"]
    assert (found["bf16_ms"], found["fp8_ms"]) == ([4.0, 4.1], [3.0, 3.1])
    assert 0 < found["score_difference"] < 1
