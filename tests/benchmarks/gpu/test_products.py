"""Tuned tiles: the fastest right candidate is kept, and the kernels take it on that device only."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

import esat_kernels
from benchmarks.gpu import inputs, products, tables
from engine.errors import EsatError, TableError
from engine.runners.gpu import choices
from engine.runners.gpu.choices import Choices, choices_for
from esat_kernels import _tuned
from esat_kernels.attention import reference as attention_reference
from esat_kernels.attention import triton_tiles as attention_tiles
from esat_kernels.linear import reference
from esat_kernels.linear import triton_tiles as linear_tiles

BFLOAT16 = torch.bfloat16
SHAPE = (720, 768, 2304, BFLOAT16, BFLOAT16)


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A device's table as `products` writes it, from four measured candidates."""
    product, attention = linear_tiles.shape_key(*SHAPE), attention_tiles.forward_key(720, 12, 64, BFLOAT16)
    rows = [
        {"operation": "linear", "key": product, "tiles": [64, 64, 64, 1, 4, 4, False], "ok": True, "median_us": 9.0},
        {"operation": "linear", "key": product, "tiles": [32, 64, 64, 1, 4, 4, False], "ok": True, "median_us": 8.0},
        {"operation": "linear", "key": product, "tiles": [16, 64, 128, 1, 4, 4, False], "ok": False},
        {"operation": "linear", "key": product, "tiles": [128, 128, 64, 1, 8, 3, False], "ok": False, "why": "out of shared memory"},
        {"operation": "attention", "key": attention, "tiles": [32, 64, 4, 3], "ok": True, "median_us": 7.0},
    ]
    monkeypatch.setattr(_tuned, "FOLDER", tmp_path)
    _tuned._table.cache_clear()
    _tuned.file("NVIDIA H200").write_text(json.dumps({**products.fastest(rows), "engine": {"verified": True, "fused_up_to_rows": 7}}))
    yield
    _tuned._table.cache_clear()


def test_the_fastest_right_tiles_are_taken_on_their_device(table):
    assert _tuned.file("NVIDIA H200").name == "nvidia-h200.json"
    assert linear_tiles.product_tiles(*SHAPE, 132, "NVIDIA H200") == linear_tiles.Tiles(32, 64, 64, 1, 4, 4)
    assert attention_tiles.forward_tiles(720, 12, 64, BFLOAT16, 132, "NVIDIA H200") == attention_tiles.Tiles(32, 64, 4, 3)


def test_the_engine_s_choices_are_in_the_same_table(table, monkeypatch):
    monkeypatch.setattr(_tuned, "device_name", lambda device: "NVIDIA H200" if device.type == "cuda" else "")
    assert choices_for(torch.device("cuda")) == Choices(verified=True, fused_up_to_rows=7)
    assert choices_for(torch.device("cpu")) == Choices()


@pytest.mark.parametrize("device", ["", "NVIDIA A100"])
def test_other_devices_and_problems_get_the_estimate(table, device):
    estimate = min(linear_tiles.candidates(*SHAPE[1:2], BFLOAT16, BFLOAT16), key=lambda t: linear_tiles.estimated_cycles(t, *SHAPE, 132))
    assert linear_tiles.product_tiles(*SHAPE, 132, device) == estimate
    assert linear_tiles.product_tiles(719, *SHAPE[1:], 132, "NVIDIA H200") == linear_tiles.product_tiles(719, *SHAPE[1:], 132)


def _write(content):
    _tuned.file("NVIDIA H200").write_text(content if isinstance(content, str) else json.dumps(content))
    _tuned._table.cache_clear()


@pytest.mark.parametrize("tiles", [[256, 256, 64, 1, 8, 3, False], [32, 64, 64, 1, 4], "64", [128, 128, 64, 1, 8, 3, False]])
def test_tiles_that_may_not_be_chosen_give_way_to_the_estimate(table, tiles):
    """Since they are none any more, have another form, or do not fit into this device's memory. Those of other kernels are taken: they are right."""
    product, attention = linear_tiles.shape_key(*SHAPE), attention_tiles.forward_key(720, 12, 64, BFLOAT16)
    _write({"linear": {product: tiles}, "attention": {attention: tiles}})
    little = 64 * 1024
    for name in ("NVIDIA H200", ""):
        assert linear_tiles.product_tiles(*SHAPE, 132, name, little) == linear_tiles.product_tiles(*SHAPE, 132, shared_memory=little)
        assert attention_tiles.forward_tiles(720, 12, 64, BFLOAT16, 132, name) == attention_tiles.forward_tiles(720, 12, 64, BFLOAT16, 132)


def test_choices_of_another_version_are_left_out(table, monkeypatch):
    monkeypatch.setattr(_tuned, "device_name", lambda device: "NVIDIA H200")
    engine = {"verified": True, "convolutions": "winograd", "polish": 3, "products": {"1x2x3": "library", "4x5x6": "assembler"}}
    _write({"engine": engine})
    assert choices_for(torch.device("cuda")) == Choices(verified=True, products={"1x2x3": "library"})


DAMAGED = {
    "engine.verified must be true or false, got str yes": {"engine": {"verified": "yes"}},
    "engine.fused_up_to_rows must be a whole number from 0 on, got str 7": {"engine": {"fused_up_to_rows": "7"}},
    "engine.fused_up_to_rows must be a whole number from 0 on, got int -1": {"engine": {"fused_up_to_rows": -1}},
    "engine.products must be names by shape, got list ": {"engine": {"products": ["library"]}},
    "engine.products must be names by shape, got dict ": {"engine": {"products": {"1x2x3": ["library"]}}},
    "engine.convolutions must be a name, got NoneType None": {"engine": {"convolutions": None}},
    "is no JSON": "{",
    "is no table of measurements": {"engine": [3]},
}


@pytest.mark.parametrize("message", DAMAGED)
def test_a_damaged_table_is_one_error_of_the_engine_that_says_what_to_do(table, monkeypatch, message):
    monkeypatch.setattr(_tuned, "device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    _write(DAMAGED[message])
    with pytest.raises(TableError, match=rf"nvidia-h200.json:? {message}.*: delete (it|the file); `make gpu GPU_OPTIONS=--again` measures"):
        choices_for(torch.device("cuda"))
    assert issubclass(TableError, EsatError)


def test_every_choice_of_a_table_is_checked():
    """One that is not would be left out without a word."""
    assert set(choices._EXPECTED) == {field.name for field in dataclasses.fields(choices.Choices)}


def test_what_are_no_tiles_is_left_out_of_a_table_that_is_written_anew(table):
    _write({"linear": {"a": 3, "b": [64, False], "c": "64"}, "linear_fp8": {"a": [None]}, "engine": {"verified": True}})
    assert tables.read("NVIDIA H200") == {"linear": {"b": [64, False]}, "linear_fp8": {}, "engine": {"verified": True}}


@pytest.mark.parametrize("content", ["{", "[]", '{"linear": 3}'])
def test_a_table_that_is_none_is_named_and_written_anew(table, content):
    _write(content)
    with pytest.raises(ValueError, match=r"nvidia-h200.json is no .*make gpu"):
        linear_tiles.product_tiles(*SHAPE, 132, "NVIDIA H200")
    assert "nvidia-h200.json is no" in _tuned.tables()["nvidia-h200"]
    assert tables.read("NVIDIA H200") == {}
    tables.write("NVIDIA H200", {"linear": {}})
    assert tables.read("NVIDIA H200") == {"linear": {}}


@pytest.mark.parametrize("multiprocessors", [1, 108, 132])
@pytest.mark.parametrize("dtypes", [(BFLOAT16, BFLOAT16), (torch.float32, BFLOAT16), (torch.float32, torch.float32)])
def test_every_problem_has_tiles(multiprocessors, dtypes):
    for rows in (1, 16, 343, 720, 16 * 720):
        for inner, columns in ((1, 1), (33, 7), (768, 2304), (3072, 768)):
            tiles = linear_tiles.product_tiles(rows, inner, columns, *dtypes, multiprocessors)
            assert tiles in linear_tiles.candidates(inner, *dtypes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_nothing_is_tuned(capsys, tmp_path):
    assert products.main(tmp_path / "out.json") == 2
    assert "nothing is tuned" in capsys.readouterr().out


@pytest.mark.parametrize(("model", "count"), [("esat-384", 21), ("esat-s-256", 21)])
def test_the_shapes_that_are_tuned_are_those_of_a_frame(model, count):
    found = products.frame_shapes(model)
    assert len(found) == count
    names = {(shape.activation, shape.residual) for shape in found}
    assert names == {(None, True), (None, False), ("gelu", False)}


@pytest.mark.parametrize("residual", [True, False])
def test_a_wrong_product_is_told_from_a_right_one(residual):
    """The exact product in the result's dtype is right; a missing bias, a lost step of the inner dimension, or a NaN is not."""
    shape = products.Shape(33, 256, 40, "gelu", residual)
    operands = shape.operands(torch.device("cpu"))
    x, weight, bias, added = operands
    exact = reference.linear(x, weight, bias, None, "gelu", added, torch.float32 if residual else BFLOAT16)
    assert shape.right(exact, *operands)
    assert not shape.right(reference.linear(x, weight, None, None, "gelu", added, exact.dtype), *operands)
    assert not shape.right(reference.linear(x[:, 16:], weight[:, 16:], bias, None, "gelu", added, exact.dtype), *operands)
    exact[3, 5] = float("nan")
    assert not shape.right(exact, *operands)


class Replays:
    """A graph without a device: the calls, and a time by the number of their tile's rows."""

    def __init__(self, works, warmup=3):
        self._us = next(work() for work in works)

    def replay_us(self):
        return self._us


@pytest.fixture
def tuned(tmp_path, monkeypatch):
    """`main` on the CPU for a small model, products by the reference: one tile is wrong, one cannot run, the time is the tile's height."""
    config = inputs.small_weights().config
    monkeypatch.setattr(products, "MODELS", ("small",))
    monkeypatch.setattr(products, "preset", lambda name: config)
    monkeypatch.setattr(products, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(products, "Graph", Replays)
    monkeypatch.setattr(products, "measure_product", lambda rows, *_: {"fused": float(rows), "library": 40.0})
    head = {"us": {"own": 9.0, "cudnn": 3.0, "library": 12.0}, "difference": {"own": 1e-3, "cudnn": 0.5, "library": 0.0}, "why": {}}
    monkeypatch.setattr(products, "measure_head", lambda config: head)
    monkeypatch.setattr(
        products.attention, "forward", lambda q, k, v, forces, wanted, tiles: attention_reference.attention(q, k, v, forces)
    )
    monkeypatch.setattr(esat_kernels, "backends", lambda: {"triton": None})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Fake 1")

    def run(shape, x, weight, bias, residual, tiles):
        if tiles.block_m == 16:
            raise RuntimeError("out of shared memory")
        out = reference.linear(x, weight, bias, None, shape.activation, residual, torch.float32 if shape.residual else BFLOAT16)
        return out + 1 if tiles.block_m == 32 else out

    monkeypatch.setattr(products.Shape, "run", run)
    timed = {"product_problem": products.product_problem, "attention_problem": products.attention_problem}

    def with_times(make):
        def problem(*arguments):
            found = make(*arguments)
            return dataclasses.replace(
                found, candidates={t: (right, [lambda t=t: float(t[0])]) for t, (right, _) in found.candidates.items()}
            )

        return problem

    for name, make in timed.items():
        monkeypatch.setattr(products, name, with_times(make))
    monkeypatch.setattr(_tuned, "FOLDER", tmp_path / "tuned")

    def call():
        output = tmp_path / "gpu_products.json"
        return products.main(output), json.loads(output.read_text()), json.loads(_tuned.file("Fake 1").read_text())

    yield call
    _tuned._table.cache_clear()


def test_a_device_s_table_holds_the_fastest_right_tiles_and_the_engine_s_choices(tuned):
    code, report, content = tuned()
    assert set(content) == {"linear", "attention", "engine"}
    assert all(tiles[0] == 64 for tiles in content["linear"].values())  # lower ones are wrong or cannot run
    assert all(tiles[0] == 32 for tiles in content["attention"].values())
    assert set(content["linear"]) == {shape.key for shape in products.frame_shapes("small")}
    whys = {row.get("why") for row in report["rows"] if not row["ok"]}
    assert whys == {None, "RuntimeError: out of shared memory"}
    assert (code, report["ok"]) == (1, False)  # a tile was wrong
    chosen = content["engine"]["products"]
    assert all(choice == ("fused" if int(shape.split("x")[0]) < 40 else "library") for shape, choice in chosen.items())
    assert content["engine"]["convolutions"] == "own"  # the fastest is wrong


def test_a_problem_of_which_nothing_runs_fails_with_the_first_reason_and_is_tried_again(tuned, tmp_path, monkeypatch):
    def right(shape, x, weight, bias, residual, tiles):
        return reference.linear(x, weight, bias, None, shape.activation, residual, torch.float32 if shape.residual else BFLOAT16)

    monkeypatch.setattr(products.Shape, "run", right)
    attend, asked = products.attention.forward, []

    def broken(*arguments):
        asked.append(arguments)
        raise RuntimeError(f"attempt {len(asked)}: no image for this device")

    monkeypatch.setattr(products.attention, "forward", broken)
    code, report, table = tuned()
    sizes = [key for key in report["failed"] if key.startswith("attention ")]
    assert (code, report["ok"], len(sizes), len(report["failed"])) == (1, False, 2, 2)
    assert report["failed"][sizes[0]] == "RuntimeError: attempt 1: no image for this device"
    assert "attention" not in table
    assert not report["no_time_for"]
    (tmp_path / "gpu_products.json").replace(tmp_path / "gpu_products.earlier")
    monkeypatch.setattr(products.attention, "forward", attend)
    code, report, table = tuned()
    assert (code, report["ok"], report["failed"]) == (0, True, {})
    assert len(table["attention"]) == 2
    assert all(row["ok"] for row in report["rows"])


def test_a_problem_that_nothing_fits_fails(tuned, monkeypatch):
    monkeypatch.setattr(products.attention_tiles, "forward_candidates", lambda *_: [])
    code, report, _ = tuned()
    assert code == 1
    assert set(report["failed"].values()) == {"none fits this device"}


def test_where_time_runs_out_the_next_call_goes_on_and_keeps_what_a_frame_chose(tuned, tmp_path, monkeypatch):
    output = tmp_path / "gpu_products.json"
    problems = len(products.frame_shapes("small")) + 2  # and sizes of attention
    left = iter([100.0, 100.0, *[1.0] * 1000])
    monkeypatch.setattr(products, "seconds_left", lambda unlimited: next(left))
    code, report, table = tuned()
    assert code == 1
    assert len({row["key"] for row in report["rows"]}) == len(table["linear"]) == 2
    assert len(report["no_time_for"]) > problems - 2
    first = next(iter(table["linear"]))
    tables.write("Fake 1", {**table, "linear": {**table["linear"], first: [128, 64, 64, 1, 8, 4], "of other sources": [1]}})
    output.replace(output.with_suffix(".earlier"))
    monkeypatch.setattr(products, "seconds_left", lambda unlimited: 100.0)
    measured = []
    measure = products.measure
    monkeypatch.setattr(products, "measure", lambda problem: measured.append(problem.key) or measure(problem))
    _, report, table = tuned()
    assert not report["no_time_for"]
    assert len(measured) == problems - 2
    assert table["linear"][first] == [128, 64, 64, 1, 8, 4]
    assert set(table["linear"]) == {shape.key for shape in products.frame_shapes("small")}
    assert {row["key"] for row in report["rows"]} == {*table["linear"], *table["attention"]}


def test_finalists_are_right_and_not_much_slower_than_the_fastest():
    times = {(1,): 10.0, (2,): 9.0, (3,): 10.5, (4,): 10.6, (5,): 11.0, (6,): 8.0}
    rows = [{"operation": "linear", "key": "a", "tiles": list(tiles), "ok": tiles != (6,), "median_us": us} for tiles, us in times.items()]
    rows += [{**rows[0], "key": "b", "tiles": [tile], "median_us": us} for tile, us in ((1, 10.0), (2, 12.5))]
    assert products.finalists([*rows, {**rows[0], "key": "c", "ok": False}]) == {
        ("linear", "a"): [(2,), (1,), (3,)],
        ("linear", "b"): [(1,)],
    }
