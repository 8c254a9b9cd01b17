"""`esat eval` as a user runs it: figures, resume, failures, other trackers, submissions."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.cli.app import main
from engine.datasets.layouts import open_dataset
from engine.evaluation import metrics
from engine.evaluation.report import truth_of
from tests.cli.run import esat
from tests.conftest import REPOSITORY
from tests.engine.evaluation import trees


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return trees.tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["eval", *map(str, arguments)])
    return caught.value.code or 0


def figures(path: Path) -> dict:
    content = json.loads(path.read_text())
    for entry in (*content["sequences"].values(), content["mean"]):
        entry.pop("fps", None)
    return content


def data_set(root: Path, sequences: int = 3, frames: int = 6) -> Path:
    for number in range(sequences):
        trees.otb(root, f"Square{number}", frames + number)
    return root


def test_figures_tables_plots(tmp_path, weights, capsys):
    root = data_set(tmp_path / "data")
    output = tmp_path / "new" / "figures.json"
    code = run(root, "--model", weights, "--json", output, "--markdown", tmp_path / "t.md", "--plots", tmp_path / "plots")
    assert code == 0
    content = json.loads(output.read_text())
    assert (content["model"], content["device"], content["preset"], content["layout"]) == ("tiny", "cpu", "otb", "otb")
    assert content["failures"] == content["unscored"] == []
    for index, sequence in enumerate(open_dataset(root).sequences):
        (kept,) = Path("out/eval").glob(f"data-*/{sequence.name}.json")
        boxes = json.loads(kept.read_text())["boxes"]
        expected = metrics.evaluate("otb", truth_of(sequence), boxes).values
        shown = content["sequences"][sequence.name]
        assert {field: shown[field] for field in metrics.FIELDS} == pytest.approx(expected)
        assert shown["frames"] == 6 + index
        assert shown["fps"] > 0
        assert np.allclose(np.loadtxt(kept.with_suffix(".txt"), delimiter=","), boxes, atol=1e-4)
    assert content["mean"]["AUC"] == pytest.approx(np.mean([entry["AUC"] for entry in content["sequences"].values()]))
    assert "| Square2 |" in (tmp_path / "t.md").read_text()
    assert "Square2" in capsys.readouterr().out
    for name in ("success", "precision", "normalised_precision"):
        assert cv2.imread(str(tmp_path / "plots" / f"{name}.png")).shape[0] > 400


def test_workers_give_the_same_figures(tmp_path, weights):
    root = data_set(tmp_path / "data")
    for workers, name in ((1, "one.json"), (2, "two.json")):
        assert run(root, "--model", weights, "--workers", workers, "--results", tmp_path / name[:3], "--json", tmp_path / name) == 0
    assert figures(tmp_path / "one.json") == figures(tmp_path / "two.json")


def test_a_killed_run_goes_on_where_it_stopped(tmp_path, weights):
    root = data_set(tmp_path / "data", sequences=6, frames=30)
    kept = tmp_path / "kept"

    command = [sys.executable, "-m", "engine", "eval", root, "--model", weights, "--workers", "2", "--results", kept]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(
        [str(part) for part in (*command, "--json", tmp_path / "never.json")],
        env=environment,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while len(list(kept.glob("*.json"))) < 2:
        assert killed.poll() is None, "finished before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    _wait_for_the_group_to_end(killed.pid)
    finished = {path.name: path.stat().st_mtime_ns for path in kept.glob("*.json")}
    assert 2 <= len(finished) < 6
    assert not (tmp_path / "never.json").exists()

    assert run(root, "--model", weights, "--results", kept, "--json", tmp_path / "resumed.json") == 0
    assert {name: (kept / name).stat().st_mtime_ns for name in finished} == finished  # none of them was tracked again
    assert len(list(kept.glob("*.json"))) == 6
    assert run(root, "--model", weights, "--results", tmp_path / "other", "--json", tmp_path / "whole.json") == 0
    assert figures(tmp_path / "resumed.json") == figures(tmp_path / "whole.json")


def _wait_for_the_group_to_end(group: int) -> None:
    """Workers end by themselves when their parent is gone."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("workers outlive their killed parent")


def test_results_are_used_again_for_the_same_model_and_frames_only(tmp_path, weights):
    root = data_set(tmp_path / "data", sequences=2)
    kept = tmp_path / "kept"

    def times() -> dict[str, int]:
        return {path.stem: path.stat().st_mtime_ns for path in kept.glob("*.json")}

    assert run(root, "--model", weights, "--results", kept) == 0
    first = times()
    assert run(root, "--model", weights, "--results", kept) == 0
    assert times() == first
    (kept / "Square0.json").write_text('{"key": ')  # a torn file counts as none
    trees.write_images(root / "Square1" / "img", trees.moving_boxes(7, step=3.0), "{:04d}.jpg")
    assert run(root, "--model", weights, "--results", kept) == 0
    second = times()
    assert second["Square0"] > first["Square0"]
    assert second["Square1"] > first["Square1"]
    assert run(root, "--model", weights, "--results", kept, "--dtype", "bf16") == 0
    third = times()
    assert all(third[name] > second[name] for name in third)
    assert run(root, "--model", weights, "--results", kept, "--dtype", "bf16", "--fresh") == 0
    assert all(times()[name] > third[name] for name in third)


def test_the_loop_is_written_down_and_keeps_results_apart(tmp_path, weights):
    root, kept, out = data_set(tmp_path / "data", sequences=1), tmp_path / "kept", tmp_path / "out.json"
    written = []
    for loop in ("default", "public"):
        assert run(root, "--model", weights, "--results", kept, "--loop", loop, "--json", out) == 0
        written.append((json.loads(out.read_text())["loop"], (kept / "Square0.json").stat().st_mtime_ns))
    assert [loop for loop, _ in written] == ["default", "public"]
    assert written[1][1] > written[0][1]
    assert run(root, "--model", weights, "--loop", "fast") == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_failures_are_listed_and_counted(tmp_path, weights, workers, capsys):
    root = data_set(tmp_path / "data")
    (root / "Square1" / "img" / "0004.jpg").write_bytes(b"damaged")
    (root / "Square2" / "groundtruth_rect.txt").write_text("1,2,3\n")
    output = tmp_path / "o.json"
    assert run(root, "--model", weights, "--workers", workers, "--json", output) == 1
    content = json.loads(output.read_text())
    assert list(content["sequences"]) == ["Square0"]
    reasons = {failure["name"]: failure["reason"] for failure in content["failures"]}
    assert set(reasons) == {"Square1", "Square2"}
    assert "frame 4" in reasons["Square1"]
    assert "line 1" in reasons["Square2"]
    shown = capsys.readouterr().out
    assert "failed tiny, Square1" in shown
    assert "1 (2 failed)" in shown


def _legends(monkeypatch) -> list[str]:
    """The legends' entries of all plots that are drawn from here on."""
    from matplotlib.axes import Axes

    labels: list[str] = []
    real = Axes.legend
    monkeypatch.setattr(Axes, "legend", lambda axes, **named: labels.extend(axes.get_legend_handles_labels()[1]) or real(axes, **named))
    return labels


def test_another_tracker_beside_ours_and_alone(tmp_path, weights, monkeypatch):
    root = data_set(tmp_path / "data")
    other = tmp_path / "perfect"
    for sequence in open_dataset(root).sequences:
        trees.write_boxes(other / f"{sequence.name}.txt", sequence.boxes, form="%.3f")
    output = tmp_path / "o.json"
    assert run(root, "--model", weights, "--compare", f"Perfect={other}", "--json", output, "--markdown", tmp_path / "t.md") == 0
    content = json.loads(output.read_text())
    assert content["trackers"]["Perfect"]["mean"]["AUC"] == pytest.approx(2000 / 21)
    assert content["mean"]["AUC"] < 90
    assert "| sequence | tiny AUC | Perfect AUC |" in (tmp_path / "t.md").read_text()
    for preset, perfect in (("trackingnet", 100), ("lasot", 2000 / 21), ("got10k", 2000 / 21)):
        assert run(root, "--model", "none", "--compare", other, "--preset", preset, "--json", output) == 0
        content = json.loads(output.read_text())
        assert content["model"] is None
        assert content["trackers"]["perfect"]["mean"]["AUC"] == pytest.approx(perfect)
        assert content["trackers"]["perfect"]["mean"]["AO"] == pytest.approx(100)
    trees.write_boxes(other / "Square0.txt", trees.moving_boxes(4))
    assert run(root, "--model", "none", "--compare", other, "--json", output) == 0
    assert json.loads(output.read_text())["notes"] == [
        "perfect: 1 results are not as long as their sequences, the first has 4 boxes for the 6 frames of Square0"
    ]
    (other / "Square1.txt").unlink()
    labels = _legends(monkeypatch)
    assert run(root, "--model", weights, "--compare", other, "--plots", tmp_path / "plots") == 1
    assert [text.partition(", ")[2] for text in labels] == ["2 sequences", "3 sequences"] * 3
    assert run(root, "--model", "none", "--compare", other, "--json", output) == 1
    assert json.loads(output.read_text())["trackers"]["perfect"]["failures"][0]["name"] == "Square1"


def test_without_a_terminal_each_finished_sequence_is_a_line(tmp_path, weights, capsys):
    root = data_set(tmp_path / "data")
    (root / "Square1" / "img" / "0004.jpg").write_bytes(b"damaged")
    assert run(root, "--model", weights, "--workers", 2) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if " of 3 sequences: " in line]
    assert sorted(line.partition(" of ")[0] for line in lines) == ["1", "2", "3"]
    about = {line.partition(": ")[2].partition(",")[0]: line for line in lines}
    assert set(about) == {"Square0", "Square1", "Square2"}
    assert re.search(r"Square0, 6 frames, [0-9.]+ a second$", about["Square0"])
    assert re.search(r"Square1, failed: .*frame 4", about["Square1"])
    assert run(root, "--model", weights) == 1
    again = capsys.readouterr().err
    assert "2 of 3 sequences were there already" in again
    assert "3 of 3 sequences: Square1, failed" in again


def test_csv_and_times(tmp_path, weights):
    root = data_set(tmp_path / "data")
    (root / "Square2" / "groundtruth_rect.txt").write_text("1,2,3\n")
    other = tmp_path / "perfect"
    for sequence in open_dataset(root).sequences:
        trees.write_boxes(other / f"{sequence.name}.txt", sequence.boxes)
    arguments = ("--model", weights, "--compare", other, "--results", tmp_path / "kept")
    assert run(root, *arguments, "--csv", tmp_path / "o.csv", "--json", tmp_path / "o.json") == 1
    with open(tmp_path / "o.csv", newline="") as file:
        rows = {(row["tracker"], row["sequence"]): row for row in csv.DictReader(file)}
    content = json.loads((tmp_path / "o.json").read_text())
    assert set(rows) == {(tracker, f"Square{number}") for tracker in ("tiny", "perfect") for number in (0, 1)} | {("tiny", "Square2")}
    for name, figures in content["sequences"].items():
        row = rows["tiny", name]
        assert {field: float(row[field]) for field in metrics.FIELDS} == pytest.approx(
            {field: figures[field] for field in metrics.FIELDS}, abs=1e-4
        )
        assert (int(row["frames"]), float(row["fps"]), row["failure"]) == (figures["frames"], pytest.approx(figures["fps"], abs=0.01), "")
        times = np.loadtxt(tmp_path / "kept" / f"{name}_time.txt")
        kept = json.loads((tmp_path / "kept" / f"{name}.json").read_text())
        assert times * 1e3 == pytest.approx(kept["times_ms"], abs=1e-4)
    assert "line 1" in rows["tiny", "Square2"]["failure"]
    assert float(rows["perfect", "Square1"]["AO"]) == 100


def test_counts_are_of_all_sequences_that_were_found(tmp_path, weights, capsys):
    for number in (1, 2, 3):
        trees.got10k(tmp_path / "data", "test", number)
    (tmp_path / "data" / "test" / "GOT-10k_Test_000002" / "groundtruth.txt").write_text("1,2\n")
    assert run(tmp_path / "data", "--model", weights) == 1
    assert "2 of 3 sequences have no public ground truth" in capsys.readouterr().out


def test_what_is_odd_in_the_ground_truth_is_said_once(tmp_path, weights, capsys):
    root = data_set(tmp_path / "data")
    for number in (0, 1):  # polygons that touch the left border in one frame each
        boxes = trees.moving_boxes(6 + number)
        boxes[3, 0] = 0
        x, y, w, h = boxes.T
        trees.write_boxes(root / f"Square{number}" / "groundtruth_rect.txt", np.array([x, y, x + w, y, x + w, y + h, x, y + h]).T)
    corners = trees.moving_boxes(8) + np.array([30, 20, 0, 0])
    corners[:, 2:] += corners[:, :2]
    trees.write_boxes(root / "Square2" / "groundtruth_rect.txt", corners)
    arguments = ("--model", weights, "--json", tmp_path / "o.json", "--markdown", tmp_path / "o.md")
    assert run(root, *arguments) == 0
    shown = capsys.readouterr().out
    polygons, odd, rules = json.loads((tmp_path / "o.json").read_text())["notes"]
    assert "2 sequences is polygons" in polygons
    assert "the boxes of 1 sequences look like corners x1,y1,x2,y2, the first is Square2" in odd
    assert "2 frames in 2 sequences begin at x = 0 or y = 0" in rules
    assert "counted by otb and misses by pytracking" in rules
    for note in (polygons, odd, rules):
        assert shown.count(note) == 1
        assert note[1:] in (tmp_path / "o.md").read_text()
    for sequence in open_dataset(root).sequences:
        trees.write_boxes(tmp_path / "perfect" / f"{sequence.name}.txt", sequence.boxes)
    arguments = ("--model", "none", "--compare", tmp_path / "perfect", "--json", tmp_path / "o.json")
    for preset, share in (("otb", 1), ("pytracking", 5 / 6)):
        assert run(root, *arguments, "--preset", preset) == 0
        content = json.loads((tmp_path / "o.json").read_text())
        assert content["trackers"]["perfect"]["sequences"]["Square0"]["P"] == pytest.approx(100 * share)
    assert "are misses here and count in the otb preset" in content["notes"][2]
    assert run(root, *arguments, "--preset", "got10k") == 0
    assert len(json.loads((tmp_path / "o.json").read_text())["notes"]) == 2


def test_json_on_standard_output_is_alone_there(tmp_path, weights, capsys):
    root = data_set(tmp_path / "data", sequences=1)
    assert run(root, "--model", weights, "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["sequences"]["Square0"]["frames"] == 6


def test_a_closed_standard_error_costs_nothing(tmp_path, weights, monkeypatch, capsys):
    """As `2>&-` leaves it: what would be said there must not come among the figures."""
    root = data_set(tmp_path / "data", sequences=1)
    monkeypatch.setattr(sys, "stderr", None)
    for _ in range(2):  # the second time the results are there
        assert run(root, "--model", weights, "--results", tmp_path / "kept", "--json", "-") == 0
        assert json.loads(capsys.readouterr().out)["sequences"]["Square0"]["frames"] == 6


def test_submissions(tmp_path, weights):
    got10k, trackingnet = tmp_path / "got10k", tmp_path / "trackingnet"
    for number in (1, 2):
        trees.got10k(got10k, "test", number)
        trees.trackingnet(trackingnet, f"abc_{number}")
    archive, output = tmp_path / "a.zip", tmp_path / "o.json"
    assert run(got10k, "--model", weights, "--submission", archive, "--json", output) == 0
    assert json.loads(output.read_text())["unscored"] == ["GOT-10k_Test_000001", "GOT-10k_Test_000002"]
    with zipfile.ZipFile(archive) as content:
        assert sorted(content.namelist()) == [
            f"GOT-10k_Test_00000{number}/GOT-10k_Test_00000{number}_{kind}.txt" for number in (1, 2) for kind in ("001", "time")
        ]
        assert len(content.read("GOT-10k_Test_000001/GOT-10k_Test_000001_001.txt").splitlines()) == 5
    assert run(trackingnet, "--model", weights, "--submission", archive) == 0
    with zipfile.ZipFile(archive) as content:
        assert sorted(content.namelist()) == ["abc_1.txt", "abc_2.txt"]
        assert content.read("abc_1.txt").startswith(b"10.0000,20.0000,16.0000,16.0000\n")
    archive.unlink()
    (trackingnet / "TEST" / "frames" / "abc_2" / "7.jpg").write_bytes(b"damaged")
    assert run(trackingnet, "--model", weights, "--submission", archive) == 2
    assert not archive.exists()


def test_results_never_replace_what_is_not_ours(tmp_path, weights, capsys):
    videos = tmp_path / "data"
    trees.video(videos)
    for kept in (videos, tmp_path / "other"):
        kept.mkdir(exist_ok=True)
        (kept / "clip.txt").write_text((videos / "clip.txt").read_text())
        before = {path: path.read_bytes() for path in kept.iterdir()}
        for more in ([], ["--fresh"], ["--workers", 2]):
            assert run(videos, "--layout", "video", "--model", weights, "--results", kept, *more) == 2
            assert f"{kept / 'clip.txt'} is no result of esat eval" in capsys.readouterr().err
        (kept / "clip.json").write_text('{"of": "another program"}')
        assert run(videos, "--layout", "video", "--model", weights, "--results", kept) == 2
        (kept / "clip.json").unlink()
        assert {path: path.read_bytes() for path in kept.iterdir()} == before
    for _ in range(2):  # a stop before the last of a result's files had its name
        assert run(videos, "--layout", "video", "--model", weights, "--results", tmp_path / "mine") == 0
        (tmp_path / "mine" / "clip.txt").unlink()
    assert run(videos, "--layout", "video", "--model", weights, "--results", tmp_path / "mine") == 0
    assert len((tmp_path / "mine" / "clip.txt").read_text().splitlines()) == len((videos / "clip.txt").read_text().splitlines())


def test_own_videos_and_one_box_only(tmp_path, weights):
    trees.video(tmp_path / "data")
    trees.video(tmp_path / "data", "start", boxes=trees.moving_boxes(1))
    output = tmp_path / "o.json"
    assert run(tmp_path / "data", "--layout", "video", "--model", weights, "--json", output) == 0
    content = json.loads(output.read_text())
    assert list(content["sequences"]) == ["clip"]
    assert content["unscored"] == ["start"]
    (kept,) = Path("out/eval").glob("data-*/start.txt")
    assert len(kept.read_text().splitlines()) == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no such folder"),
        (["{data}/Square0/groundtruth_rect.txt"], "groundtruth_rect.txt is a file, expected a folder"),
        (["{data}", "--json", "o", "--csv", "o"], "cannot write o: it is the csv output as well"),
        (["{data}", "--csv", "{data}"], "it is a folder"),
        ([".", "--layout", "kitti"], "unknown layout"),
        ([".", "--preset", "mean"], "--preset must be one of"),
        (["{data}", "--model", "missing.safetensors"], "not found"),
        (["{data}", "--model", "{weights}", "--device", "tpu"], "device must be"),
        (["{data}", "--model", "{weights}", "--workers", "0"], "workers must be"),
        (["{data}", "--model", "none"], "nothing to score"),
        (["{data}", "--model", "none", "--compare", "a=nowhere"], "no such folder"),
        (["{data}", "--model", "none", "--compare", ".", "--submission", "a.zip"], "needs a model"),
        (
            ["{data}", "--compare", "{data}/Square0/img", "--compare", "{data}/Square1/img"],
            "are both named 'img': name them apart by --compare NAME",
        ),
    ],
)
def test_bad_calls(tmp_path, weights, arguments, words, capsys):
    data = data_set(tmp_path / "data", sequences=2)
    assert run(*(text.format(data=data, weights=weights) for text in arguments)) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert len(shown.strip().splitlines()) == 1


def test_the_data_set_doctor(tmp_path, capsys):
    def doctor(*arguments: object) -> int:
        with pytest.raises(SystemExit) as caught:
            main(["doctor", *map(str, arguments)])
        return caught.value.code or 0

    root = data_set(tmp_path / "data")
    assert doctor(root) == 0
    assert "3 sequences, 21 frames" in capsys.readouterr().out
    (root / "Square1" / "img" / "0004.jpg").write_bytes(b"damaged")
    assert doctor(root, "--layout", "otb") == 1
    assert "1 damaged images" in capsys.readouterr().out
    assert doctor(root, "--layout", "kitti") == 2


def test_a_name_that_no_file_system_takes_is_one_line(capsys):
    assert esat("eval", "data", "--compare", f"ours={'a' * 300}") == 2
    assert f"error: cannot use {'a' * 300}: File name too long" in capsys.readouterr().err
