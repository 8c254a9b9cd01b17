"""Tiles that are chosen within a frame, on a clock that knows what each of them takes there."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch

from benchmarks.gpu import frame_tiles, products
from esat_kernels import _tuned

MLP, QKV, ATTENTION = ("linear", "mlp"), ("linear", "qkv"), ("attention", "720")
HIGH, LOW, SMALL = (128, 128), (64, 64), (32, 64)
ALONE_US = {(MLP, HIGH): 20.0, (MLP, LOW): 21.0, (MLP, SMALL): 90.0, (QKV, HIGH): 12.0, (QKV, LOW): 13.0, (ATTENTION, SMALL): 7.0}
LAUNCHES = Counter({QKV: 11, MLP: 12, ATTENTION: 12})


class FakeFrame:
    """Its time is that of its problems with the tiles that were taken when it was captured, within a frame, a place in memory that costs up to
    `placed` of it, and up to `shaking` that every replay differs by.
    """

    def __init__(self, within_us, placed=0.0, shaking=0.0, cannot=(), wrong=False, joint_us=0.0):
        self.within_us, self.placed, self.shaking = within_us, placed, shaking
        self.cannot, self.wrong, self.joint_us = cannot, wrong, joint_us
        self.random, self.captured, self.checked = np.random.default_rng(1), [], []

    def _taken(self):
        return {problem: tuple(_tuned.find("Fake 1", *problem)) for problem in LAUNCHES}

    def launches(self):
        return frame_tiles.launches(lambda: [_tuned.find("Fake 1", *problem) for problem, count in LAUNCHES.items() for _ in range(count)])

    def capture(self):
        taken = self._taken()
        if any(tiles in self.cannot for tiles in taken.values()):
            raise ValueError("out of shared memory")
        self.captured.append(taken)
        us = sum(LAUNCHES[problem] * self.within_us[problem, tiles] for problem, tiles in taken.items())
        us -= self.joint_us * (taken[MLP] == taken[QKV] == LOW)
        us *= 1 + self.placed * self.random.uniform(-1, 1)
        return lambda: 1e-3 * us * (1 + self.shaking * self.random.uniform(-1, 1))

    def right(self):
        self.checked.append(self._taken())
        return not self.wrong


@pytest.fixture
def device(tmp_path, monkeypatch):
    """What `products` has left for the device "Fake 1"; gives the part: exit code, report and table for a frame."""
    rows = [
        {"operation": problem[0], "key": problem[1], "tiles": list(tiles), "ok": True, "median_us": us}
        for (problem, tiles), us in ALONE_US.items()
    ]
    rows.append({"operation": "linear", "key": "mlp", "tiles": [16, 16], "ok": False})
    rows.append({"operation": "linear", "key": "of another model", "tiles": [16, 16], "ok": True, "median_us": 900.0})
    (tmp_path / "gpu_products.json").write_text(json.dumps({"ok": True, "rows": rows, "no_time_for": []}))
    monkeypatch.setattr(_tuned, "FOLDER", tmp_path / "tuned")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Fake 1")
    monkeypatch.setattr(frame_tiles, "MODELS", ("small",))
    frame_tiles.tables.write("Fake 1", {**products.fastest(rows), "engine": {"verified": True}})

    def call(frame):
        output = tmp_path / "gpu_frame-tiles.json"
        code = frame_tiles.main(output, lambda model: frame)
        return code, json.loads(output.read_text()), json.loads(_tuned.file("Fake 1").read_text())

    yield call
    _tuned._table.cache_clear()


WITHIN = {**ALONE_US, (MLP, LOW): 18.0}  # lower tiles leave the kernels around them more of the L2


def test_tiles_that_are_faster_within_the_frame_are_taken(device):
    frame = FakeFrame(WITHIN, placed=0.001, shaking=0.01)
    code, report, table = device(frame)
    assert code == 0
    assert table["linear"] == {"mlp": list(LOW), "qkv": list(HIGH), "of another model": [16, 16]}
    assert table["engine"] == {"verified": True}
    assert frame.checked[-1][MLP] == LOW
    gain = report["models"]["small"]["gain"]
    before, after = (12 * WITHIN[MLP, tiles] + 11 * 12.0 + 12 * 7.0 for tiles in (HIGH, LOW))
    assert gain["won"]
    assert abs(gain["ratio"] - after / before) < 0.01


def test_what_costs_most_is_tried_first_and_what_is_slow_alone_or_elsewhere_is_not(device):
    frame = FakeFrame(ALONE_US)
    code, report, _ = device(frame)
    rows = report["models"]["small"]["rows"]
    assert [(row["key"], row["launches"], row["alone_us"]) for row in rows] == [("mlp", 12, 240.0), ("qkv", 11, 132.0)]
    assert code == 0
    tried = {taken[MLP] for taken in frame.captured}
    assert tried == {HIGH, LOW}


@pytest.mark.parametrize("noise", [{"placed": 0.02}, {"shaking": 0.2}])
def test_a_gain_that_two_captures_of_the_same_differ_by_is_none(device, noise):
    frame = FakeFrame({**ALONE_US, (MLP, LOW): 19.98}, **noise)
    code, report, table = device(frame)
    assert code == 0
    assert table["linear"]["mlp"] == list(HIGH)
    assert report["models"]["small"]["rows"][0]["won"] is None


def test_the_rounds_decide_by_three_quarters():
    base, steady = [1.0] * 20, [1.0] * 20
    found = frame_tiles.compare(
        {"base": base, "twin": steady, "some": [0.9] * 14 + [1.1] * 6, "most": [0.9] * 16 + [1.1] * 4, "little": [0.9995] * 20}
    )
    assert {name: one["won"] for name, one in found.items()} == {"some": False, "most": True, "little": False}
    assert not frame_tiles.compare({"base": base, "twin": [0.97] * 20, "most": [0.98] * 20})["most"]["won"]


def test_what_pays_only_together_with_another_choice_is_found_in_a_second_sweep(device):
    """Alone the MLP's lower tiles cost as much as they gain; with those of q, k and v they pay."""
    frame = FakeFrame({**ALONE_US, (MLP, LOW): 20.1, (QKV, LOW): 11.5}, joint_us=15.0)
    _, report, table = device(frame)
    assert table["linear"]["qkv"] == table["linear"]["mlp"] == list(LOW)
    assert [(row["sweep"], row["key"]) for row in report["models"]["small"]["rows"] if row["won"]] == [(0, "qkv"), (1, "mlp")]


def test_tiles_that_cannot_run_in_a_frame_say_why_and_stop_no_other(device):
    code, report, table = device(FakeFrame(WITHIN, cannot=(LOW,)))
    assert code == 0
    assert table["linear"]["mlp"] == list(HIGH)
    assert report["models"]["small"]["rows"][0]["tried"][str(LOW)] == {"won": False, "why": "ValueError: out of shared memory"}


def test_a_frame_that_is_wrong_leaves_the_table_as_it_was(device):
    code, report, table = device(FakeFrame(WITHIN, wrong=True))
    assert code == 1
    assert table["linear"]["mlp"] == list(HIGH)
    assert "too far from the model" in report["models"]["small"]["why"]


def test_what_is_no_gain_in_the_whole_leaves_the_table_as_it_was(device, monkeypatch):
    monkeypatch.setattr(frame_tiles, "gain", lambda *_: {"ratio": 1.001})
    code, _, table = device(FakeFrame(WITHIN))
    assert (code, table["linear"]["mlp"]) == (0, list(HIGH))


def test_a_frame_that_was_wrong_is_tuned_anew(device, tmp_path):
    assert device(FakeFrame(WITHIN, wrong=True))[0] == 1
    (tmp_path / "gpu_frame-tiles.json").replace(tmp_path / "gpu_frame-tiles.earlier")
    again = FakeFrame(WITHIN)
    code, _, table = device(again)
    assert (code, table["linear"]["mlp"]) == (0, list(LOW))
    assert len(again.captured) > 4  # problems are tried once more, not only the choice of before checked


def test_where_time_runs_out_the_next_call_goes_on(device, tmp_path, monkeypatch):
    left = iter([100.0, 100.0, 1.0])
    monkeypatch.setattr(frame_tiles, "seconds_left", lambda unlimited: next(left, 1.0))
    code, report, table = device(FakeFrame(WITHIN))
    assert code == 1
    assert [row["key"] for row in report["models"]["small"]["rows"]] == ["mlp"]
    assert table["linear"]["mlp"] == list(LOW)  # already
    (tmp_path / "gpu_frame-tiles.json").replace(tmp_path / "gpu_frame-tiles.earlier")
    monkeypatch.setattr(frame_tiles, "seconds_left", lambda unlimited: 100.0)
    again = FakeFrame(WITHIN)
    code, report, table = device(again)
    assert code == 0
    assert [(row["sweep"], row["key"]) for row in report["models"]["small"]["rows"]] == [(0, "mlp"), (0, "qkv"), (1, "mlp"), (1, "qkv")]
    assert again.captured[0][MLP] == LOW
    before, after = report["models"]["small"]["gain"]["before_ms"], report["models"]["small"]["gain"]["after_ms"]
    assert before > after  # than with the table of the first call
    assert table["linear"]["mlp"] == list(LOW)


@pytest.mark.parametrize("lacking", [{"no_time_for": ["linear mlp"]}, {"failed": {"linear mlp": "out of shared memory"}}])
def test_what_products_has_not_measured_is_left_to_the_next_call(device, tmp_path, lacking):
    path = tmp_path / "gpu_products.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, "rows": [row for row in whole["rows"] if row["key"] != "mlp"], **lacking}))
    code, report, _ = device(FakeFrame(WITHIN))
    assert (code, report["ok"]) == (1, False)
    path.write_text(json.dumps(whole))
    (tmp_path / "gpu_frame-tiles.json").replace(tmp_path / "gpu_frame-tiles.earlier")
    code, report, table = device(FakeFrame(WITHIN))
    assert (code, report["ok"]) == (0, True)
    assert table["linear"]["mlp"] == list(LOW)
    path.unlink()
    code, report, _ = device(FakeFrame(WITHIN))
    assert (code, report["why"]) == (1, "part products has measured no tiles")
