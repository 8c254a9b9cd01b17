"""Curves, label plots, validation."""

import json

import cv2
import numpy as np
import pytest

from engine.errors import DatasetError
from engine.evaluation.tracking import track
from engine.training import validate as validate_module
from engine.training.checkpoint import CHECKPOINT
from engine.training.curves import plot_curves, read_log, smooth
from engine.training.export import export_checkpoint
from engine.training.validate import validate
from tests.engine.training.data import picture
from tests.engine.training.test_trainer import trainer


def test_curves_survive_a_cut_line(tmp_path):
    lines = [json.dumps({"step": step, "total": 1 / step, "iou": 0.1 * step}) for step in range(1, 9)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + '\n{"step": 9, "tot')
    assert len(read_log(tmp_path / "log.jsonl")) == 8
    plot_curves(tmp_path / "log.jsonl", tmp_path / "c.png")
    assert cv2.imread(str(tmp_path / "c.png")).std() > 0
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(DatasetError, match="no records"):
        plot_curves(tmp_path / "log.jsonl", tmp_path / "c.png")


def test_smooth_is_a_running_mean():
    assert smooth(np.array([1.0, 3.0, 5.0, 7.0]), 2).tolist() == [1.0, 2.0, 4.0, 6.0]


def test_validation_tracks_every_sequence(tmp_path, monkeypatch):
    run = trainer(tmp_path / "run", steps=1)
    run.run()
    export_checkpoint(tmp_path / "run" / CHECKPOINT, tmp_path / "w.safetensors", run.config)
    for name in ("one", "two"):
        (tmp_path / "data" / name / "img").mkdir(parents=True)
        boxes = [[60 + 5 * t, 80, 50, 40] for t in range(3)]
        for t, box in enumerate(boxes):
            cv2.imwrite(str(tmp_path / "data" / name / "img" / f"{t}.png"), picture(box))
        (tmp_path / "data" / name / "groundtruth.txt").write_text("\n".join(",".join(map(str, box)) for box in boxes))
    loops = []
    monkeypatch.setattr(validate_module, "track", lambda sequence, tracker: loops.append(tracker.config.loop) or track(sequence, tracker))
    scores = validate(tmp_path / "w.safetensors", tmp_path / "data", device="cpu")
    assert loops == ["public", "public"]
    assert set(scores) == {"one", "two", "mean"}
    assert scores["mean"] == pytest.approx((scores["one"] + scores["two"]) / 2)
    assert validate(tmp_path / "w.safetensors", tmp_path / "data", "cpu", frames=1)["mean"] == pytest.approx(95.238, abs=1e-3)
    with pytest.raises(DatasetError, match="no sequence of the layout"):
        validate(tmp_path / "w.safetensors", tmp_path / "run", device="cpu")
