"""The loop that is put back on the target: where it starts again, what counts as lost, and what is kept."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import anchored
from benchmarks.loss.clips import Job, targets
from benchmarks.loss.disturb import Clip
from benchmarks.selection import runs
from engine.cli.exits import run_function
from tests.engine.evaluation import trees


class Drifting:
    """A runner whose box moves to the right by four pixels a frame, whatever it sees."""

    def __init__(self):
        self.searched = []

    def encode_template(self, frame, box, bgr):
        assert (frame.index, bgr) == (0, True)
        return "template"

    def observe(self, frame, boxes, templates, bgr):
        assert templates == ["template"]
        self.searched.append(boxes[0])
        x, y, w, h = boxes[0]
        return SimpleNamespace(targets=[SimpleNamespace(box=(x + 4.0, y, w, h))])


class Still:
    """A runner whose box stays where it is, and that counts how often it is asked."""

    searches = 0

    def encode_template(self, *arguments):
        return "template"

    def observe(self, frame, boxes, templates, bgr):
        self.searches += 1
        return SimpleNamespace(targets=[SimpleNamespace(box=boxes[0])])


def job(boxes):
    frames = [SimpleNamespace(index=index) for index in range(len(boxes))]
    return SimpleNamespace(clip=lambda: Clip("clip", "plain", frames, np.array(boxes, float), np.ones(len(boxes))))


def test_every_so_many_frames_the_search_is_around_the_truth():
    runner, still = Drifting(), [0.0, 0.0, 20.0, 20.0]
    found = anchored.overlaps_of(job([still] * 8), runner, 3)
    assert [box[0] for box in runner.searched] == [0, 4, 8, 0, 4, 8, 0]
    shares = [(20 - shift) / (20 + shift) for shift in (4, 8, 12)]
    assert found == pytest.approx([*shares, *shares, shares[0]])


def test_without_a_truth_the_loop_goes_on_and_nothing_is_counted():
    runner, still, none = Drifting(), [0.0, 0.0, 20.0, 20.0], [np.nan] * 4
    found = anchored.overlaps_of(job([still, still, none, still, still]), runner, 2)
    assert [box[0] for box in runner.searched] == [0, 4, 8, 12]  # the truth of frame 2, where it would begin again, is not known
    assert np.isnan(found).tolist() == [False, True, False, False]
    assert anchored.auc(np.array([0.5, np.nan])) == anchored.auc(np.array([0.5]))


def test_a_stretch_is_lost_that_ends_without_the_target():
    held, lost, unknown = np.full(10, 0.8), np.array([0.8] * 5 + [0.05] * 5), np.full(10, np.nan)
    back = np.array([0.0] * 9 + [0.6])
    assert anchored.stretches(np.concatenate([held, lost, back, unknown, lost]), 10) == (4, 2)
    assert anchored.stretches(np.array([0.0] * 4), 10) == (0, 0)  # too few frames to tell


def test_kept_overlaps_hold_for_the_same_frames_and_truth_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(anchored._Worker, "runner", Still(), raising=False)
    truth = trees.otb(tmp_path / "data", "one", 8, truth="groundtruth.txt") / "groundtruth.txt"

    def tracked(frames=100):
        before = anchored._Worker.runner.searches
        (target,) = targets(tmp_path / "data")
        return len(anchored._run(Job(target, frames), tmp_path / "kept", 5)), anchored._Worker.runner.searches - before

    assert tracked(4) == (3, 3)
    assert tracked() == (7, 7)
    assert tracked() == (7, 0)
    lines = truth.read_text().splitlines()[:-1]
    truth.write_text("\n".join([*lines, "nan,nan,nan,nan"]))
    assert tracked() == (7, 7)
    trees.write_images(tmp_path / "data" / "one" / "img", trees.moving_boxes(8)[::-1], "{:04d}.jpg")
    assert tracked() == (7, 7)
    (path,) = (tmp_path / "kept").iterdir()
    path.write_text(path.read_text()[:40])  # a file that was cut
    assert tracked() == (7, 7)


def test_differences_are_paired_over_targets():
    folders = {"a@1": "one", "a@2": "one", "b@1": "two", "b@2": "two"}
    old = dict.fromkeys(folders, np.full(20, 0.52))
    new = {"a@1": np.full(20, 0.62), "a@2": np.full(20, 0.62), "b@1": np.full(20, 0.52), "b@2": np.full(20, 0.42)}
    first, second = anchored.rows_of({"old": old, "new": new}, folders, 10)
    step = 100 * 2 / 21  # IoU of 0.1 is two thresholds
    assert (first["difference"], first["better"], first["clips"]) == (0, 0, 4)
    assert second["difference"] == pytest.approx((step - step / 2) / 2)
    assert second["error"] == pytest.approx(np.std([step, -step / 2], ddof=1) / np.sqrt(2))
    assert second["better"] == 2
    assert second["AUC"] == pytest.approx(
        {name: first["AUC"][name] + change for name, change in (("one 1/1", step), ("one 1/2", step), ("two 1/1", 0), ("two 1/2", -step))}
    )
    head, cells = anchored.table([first, second])
    assert head[1:5] == ["one 1/1", "one 1/2", "two 1/1", "two 1/2"]
    assert cells[0][-1] == ""
    assert cells[1][-1] == f"+{step / 4:.1f} +- {second['error']:.1f}, 2 of 4 better"


def test_the_command_tracks_once(tmp_path, tiny_weights, monkeypatch, capsys):
    trees.otb(tmp_path / "data", "one", 8, truth="groundtruth.txt")
    trees.otb(tmp_path / "data", "two", 7, truth="groundtruth.txt")
    options = [
        "--data",
        tmp_path / "data",
        "--sizes",
        "1,2",
        "--records",
        tmp_path / "kept",
        "--json",
        tmp_path / "rows.json",
        "--workers",
        1,
    ]

    def run(*more):
        with pytest.raises(SystemExit) as stopped:
            run_function(anchored.main, list(map(str, (tiny_weights, *options, *more))))
        return stopped.value.code or 0

    assert run("--every", 5, "--store", tmp_path / "results") == 0
    (row,) = map(json.loads, (tmp_path / "rows.json").read_text().splitlines())
    assert (row["clips"], row["lost"] <= row["stretches"], row["dtype"]) == (4, True, "fp32")
    assert row["stretches"] == 2 * 2  # of 7 and 6 frames the first five, which can be told
    assert (tmp_path / "results" / "anchored.md").read_text().startswith("# Put back on the target")
    (kept,) = (tmp_path / "kept").iterdir()
    for path in kept.iterdir():
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"overlaps": [1.0] * len(content["overlaps"])}))
    assert run("--every", 5) == 0
    assert json.loads((tmp_path / "rows.json").read_text())["mean"] == pytest.approx(100 * 20 / 21)
    monkeypatch.setattr(runs.esat_kernels, "cpu_isa", lambda: "another")
    assert run("--every", 5) == 0
    assert json.loads((tmp_path / "rows.json").read_text())["mean"] == row["mean"]
    assert run("--every", 4) == 2
    assert run("--sizes", "0") == 2
    assert "positive integers" in capsys.readouterr().err
    twin = shutil.copy(tiny_weights, tmp_path)
    assert run(twin) == 2
    assert "expected files of different names, got tiny twice" in " ".join(capsys.readouterr().err.split())
    shutil.copytree(tmp_path / "data" / "one", tmp_path / "more" / "one")
    assert run("--data", tmp_path / "more") == 2
    assert f"expected sequences of different names, got one in {tmp_path / 'data'}" in " ".join(capsys.readouterr().err.split())
