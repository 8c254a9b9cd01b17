"""Several targets against separate trackers: the rows, and that different boxes are told."""

import json

import numpy as np
import pytest
import typer

from benchmarks import targets
from engine import MultiTracker
from engine.tracking.tracker import open_runner


def test_rows_and_curves(tiny_weights, tmp_path):
    arguments = {"model": str(tiny_weights), "targets": "1,3", "device": "cpu", "dtype": "fp32", "seconds": 0.1}
    with pytest.raises(typer.Exit) as ended:
        targets.main(**arguments, json_path=str(tmp_path / "a.json"), plot=tmp_path / "a.png")
    assert ended.value.exit_code == 0
    rows = [json.loads(line) for line in (tmp_path / "a.json").read_text().splitlines()]
    assert [row["targets"] for row in rows] == [1, 3]
    assert all(row["ok"] and row["median_ms"] > 0 and row["max_difference_px"] <= 0.01 and row["rounds"] >= 3 for row in rows)
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_other_boxes_are_not_ok(tiny_weights, monkeypatch):
    class Wrong(MultiTracker):
        def update(self, frame):
            return super().update(np.roll(frame, 40, axis=1))

    monkeypatch.setattr(targets, "MultiTracker", Wrong)
    assert not targets.measure(open_runner(tiny_weights, "cpu", "fp32", "auto"), 2, 0.01)["ok"]
