"""The checks of the eight-bit products' part of `make gpu`, on a CPU by the reference: what is right passes, and what is a little wrong does not."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch.nn import functional

import esat_kernels
from benchmarks.gpu import fp8, fp8_checks, tables
from benchmarks.gpu.frame import NetworkFrame
from benchmarks.gpu.inputs import images
from engine.runners.gpu.network import GpuNetwork, Kernels
from esat_kernels import _tuned
from esat_kernels.linear import reference_fp8
from esat_kernels.linear.triton_fp8 import Work
from tests.engine.runners.gpu import models

CPU = torch.device("cpu")
SMALL = [
    fp8.Product(name, 21, inputs, outputs)
    for name, inputs, outputs in (("projection", 128, 256), ("mlp_in", 256, 128), ("mlp_out", 256, 256))
]


def off(value):
    """A fifth more of its size and something, whatever its sign."""
    return value + 0.2 * value.abs() + 0.05


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
        part[0, 5] = off(part[0, 5])

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


@pytest.mark.parametrize("product", [SMALL[0], SMALL[2]], ids=lambda product: product.name)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_each_of_a_group_s_three_statistics_is_checked(product, place):
    """Of one row and group: the origin, what the mean lacks of it, the squared distances."""

    def wrong(work, tiles):
        by_reference(work, tiles)
        work.left_statistics[place, 7, 1] = off(work.left_statistics[place, 7, 1])

    assert not any(row["ok"] for row in fp8.rows_of(product, wrong, timed=False, device=CPU))


@pytest.mark.parametrize("product", SMALL, ids=lambda product: product.name)
def test_tiles_are_timed_with_weights_that_have_left_the_cache(product, monkeypatch):
    """Calls of a graph read as many weights as fill the L2 twice, or as there are at most; all of them give the same."""
    monkeypatch.setattr(fp8, "copies", lambda size: -(-(2**19) // size))
    monkeypatch.setattr(fp8, "interleaved", lambda graphs, rounds: {name: [1.0] for name in graphs})
    monkeypatch.setattr(fp8.linear, "_tiles", lambda *_: None)
    calls = []

    class Graph:
        def __init__(self, works, warmup):
            calls.append([])
            for work in works:
                work()

    def launch(work, tiles):
        by_reference(work, tiles)
        if calls:
            calls[-1].append((work.weight.data_ptr(), work.weight.nbytes))

    monkeypatch.setattr(fp8, "Graph", Graph)
    monkeypatch.setattr(fp8.products.Shape, "run", lambda shape, x, weight, *_: calls[-1].append((weight.data_ptr(), weight.nbytes)))
    rows = fp8.rows_of(product, launch, device=CPU)
    assert all(row["ok"] and row["median_us"] == row["bf16_us"] == 1.0 for row in rows)
    assert len(calls) == len(rows) + 1
    for found in calls:
        weights = dict(found)
        assert sum(weights.values()) >= 2**19 or len(weights) == fp8.MOST_COPIES
        assert len(weights) > 1


@pytest.fixture(scope="module")
def weights():
    return models.weights(dim=256, heads=4, depth=3, elimination_layers=(1,), template_size=32, search_size=128)


def errors(weights, given=None):
    network = GpuNetwork(given or weights, CPU, torch.bfloat16, Kernels.of("reference"), True)
    return fp8_checks.layer_errors(weights, fp8_checks.layers_of(NetworkFrame(network, *images(weights.config, 1, CPU))))


def changed(weights, name, change):
    state = dict(weights.state_dict)
    state[name] = change(state[name].clone())
    return dataclasses.replace(weights, state_dict=state)


def test_the_reference_s_layers_agree_with_themselves(weights):
    assert errors(weights) == {"in_the_whole": 0.0, "in_a_line": 0.0, "left": True, "ok": True}


def test_layers_whose_sums_are_as_inexact_as_a_matrix_unit_s_agree(weights, monkeypatch):
    """As far off as `SUMS` allows, which rounds some values the other way."""
    reference = reference_fp8.linear_fp8
    generator = torch.Generator().manual_seed(1)

    def inexact(x, scales, statistics, weight, weight_scales, sums, bias, residual, activation, eps, out, *left):
        work = Work(x, scales, statistics, weight, weight_scales, sums, bias, None, None, eps)
        values, limit = fp8_checks.exact(work)
        values += (2 * torch.rand(values.shape, generator=generator) - 1) * limit * (1.0 if scales is not None else 2.0**-9)
        values = functional.gelu(values) if activation else values
        values = values if residual is None else values + residual.flatten(0, 1)
        if out is not None:
            out.copy_(values.view(out.shape))
        if left[0] is not None:
            reference_fp8.leave(values, *left)

    network = GpuNetwork(weights, CPU, torch.bfloat16, Kernels.of("reference"), True)
    frame = NetworkFrame(network, *images(weights.config, 1, CPU))
    monkeypatch.setattr(fp8.reference_fp8, "linear_fp8", lambda *arguments, **named: (reference if named else inexact)(*arguments, **named))
    layers = fp8_checks.layers_of(frame)
    monkeypatch.undo()
    found = fp8_checks.layer_errors(weights, layers)
    assert found["ok"], found
    assert found["in_the_whole"] > 0.05


WRONG = {
    "an output of the MLP": ("mlp.fc2.weight", lambda weight: weight.index_copy_(0, torch.tensor([5]), 1.2 * weight[5:6])),
    "weights of two bits": ("mlp.fc1.weight", lambda weight: weight.to(torch.float8_e5m2).float()),
    "a bias": ("mlp.fc1.bias", torch.zeros_like),
    "the projection": ("attn.proj.weight", lambda weight: 1.05 * weight),
    "a NaN": ("mlp.fc2.bias", lambda bias: bias.index_fill_(0, torch.tensor([3]), float("nan"))),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_layer_of_other_weights_does_not(weights, name):
    """In the last layer alone, where nothing behind it would show it."""
    parameter, change = WRONG[name]
    assert not errors(weights, changed(weights, f"backbone.blocks.2.{parameter}", change))["ok"]


@pytest.mark.parametrize("part", ["scales", "statistics", "weight_scales", "group_sums"])
def test_a_layer_of_other_scales_does_not(weights, part, monkeypatch):
    """As a kernel that reads them at the wrong place."""
    reference = reference_fp8.linear_fp8

    def wrong(*arguments):
        place = ("x", "scales", "statistics", "weight", "weight_scales", "group_sums").index(part)
        given = list(arguments)
        if given[place] is not None:
            given[place] = given[place].roll(1, min(1, given[place].dim() - 1))  # to another row, or output
        reference(*given)

    network = GpuNetwork(weights, CPU, torch.bfloat16, Kernels.of("reference"), True)
    frame = NetworkFrame(network, *images(weights.config, 1, CPU))
    with monkeypatch.context() as patch:
        patch.setattr(reference_fp8, "linear_fp8", wrong)
        layers = fp8_checks.layers_of(frame)
    assert not fp8_checks.layer_errors(weights, layers)["ok"]


def test_what_is_left_for_the_next_product_is_checked(weights):
    network = GpuNetwork(weights, CPU, torch.bfloat16, Kernels.of("reference"), True)
    layers = fp8_checks.layers_of(NetworkFrame(network, *images(weights.config, 1, CPU)))
    layers[1].made.centred.statistics[1, 3, 0] += 0.1
    found = fp8_checks.layer_errors(weights, layers)
    assert (found["ok"], found["left"], found["in_a_line"]) == (False, False, 0.0)


@pytest.fixture
def part(tmp_path, monkeypatch):
    """`main` for two products with times of its own; gives the exit code, the report and what was measured."""
    monkeypatch.setattr(fp8, "DEVICE", CPU)
    monkeypatch.setattr(_tuned, "FOLDER", tmp_path / "tuned")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Fake 1")
    monkeypatch.setattr(esat_kernels, "backends", lambda: {"cuda": None})
    monkeypatch.setattr(esat_kernels, "fp8_unsupported", lambda *_: None)
    monkeypatch.setattr(fp8, "model_weights", lambda name: None)
    monkeypatch.setattr(fp8, "frame_products", lambda model: SMALL[:2])
    measured = []
    monkeypatch.setattr(fp8, "frames", lambda *_, **options: measured.append("frame") or {"ok": True})

    def rows_of(product):
        measured.append(product.name)
        return [{"product": product.name, "key": product.key, "tiles": [1], "ok": True, "median_us": 3.0, "bf16_us": 4.0}]

    monkeypatch.setattr(fp8, "rows_of", rows_of)

    def call(*left):
        times = iter(left)
        monkeypatch.setattr(fp8, "seconds_left", lambda unlimited: next(times, 100.0))
        measured.clear()
        output = tmp_path / "gpu_fp8.json"
        return fp8.main(output), json.loads(output.read_text()), list(measured)

    yield call
    _tuned._table.cache_clear()


def test_where_time_runs_out_the_next_call_goes_on(part, tmp_path):
    code, report, measured = part(100.0, 1.0, 1.0)
    assert (code, report["no_time_for"], measured) == (1, [SMALL[1].key], ["frame", "projection"])
    (tmp_path / "gpu_fp8.json").replace(tmp_path / "gpu_fp8.earlier")
    code, report, measured = part()
    assert (code, report["ok"], report["no_time_for"]) == (0, True, [])
    assert measured == ["mlp_in", "frame"]  # with the tiles that were measured
    assert {row["key"] for row in report["rows"]} == set(tables.read("Fake 1")["linear_fp8"]) == {SMALL[0].key, SMALL[1].key}


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_frame_that_is_wrong_fails_before_and_with_the_measured_tiles(part, monkeypatch, wrong):
    frames = iter([{"ok": place != wrong} for place in range(2)])
    monkeypatch.setattr(fp8, "frames", lambda *_, **options: next(frames))
    code, report, _ = part()
    assert (code, report["ok"]) == (1, False)
    assert [report["frame"]["ok"], report["tuned_frame"]["ok"]] == [wrong != 0, wrong != 1]


def test_the_product_in_bfloat16_takes_the_tiles_that_it_has_in_a_frame(monkeypatch):
    """There it has counters, and its parts may meet."""
    monkeypatch.setattr(fp8.linear._triton, "multiprocessors", lambda device: 8)
    monkeypatch.setattr(fp8, "copies", lambda size: 1)
    monkeypatch.setattr(fp8, "interleaved", lambda graphs, rounds: {name: [1.0] for name in graphs})
    monkeypatch.setattr(fp8, "Graph", lambda works, warmup: [work() for work in works])
    taken = []
    monkeypatch.setattr(fp8.products.Shape, "run", lambda shape, *given: taken.append(given[-1]))
    fp8.rows_of(fp8.Product("mlp_out", 64, 1536, 128), by_reference, device=CPU)
    assert [tiles.joined for tiles in taken] == [True]


def test_frames_are_timed_in_turn():
    weights = models.weights(dim=128, heads=2, depth=2, elimination_layers=(1,), template_size=32, search_size=64)
    times = iter([4.0, 3.0, 4.1, 3.1])
    found = fp8.frames(weights, "reference", CPU, lambda call: call() and {"median_ms": next(times)}, repetitions=2)
    assert found["ok"]
    assert found["layer_errors"]["ok"]
    assert (found["bf16_ms"], found["fp8_ms"]) == ([4.0, 4.1], [3.0, 3.1])
    assert 0 < found["score_difference"] < 1


def test_a_frame_whose_layers_are_wrong_has_no_time(weights, monkeypatch):
    """Its score map is near enough to bfloat16's: scales of one output in the last layer say little there."""
    network = fp8.GpuNetwork
    other = changed(weights, "backbone.blocks.2.mlp.fc2.weight", WRONG["an output of the MLP"][1])
    monkeypatch.setattr(fp8, "GpuNetwork", lambda given, *rest: network(other if rest[-1] else given, *rest))
    found = fp8.frames(weights, "reference", CPU, lambda call: 1 / 0, repetitions=2)
    assert found["repeats"]
    assert not found["ok"]
    assert found["score_difference"] < 1
