"""The comparison of weights: clips are what they say, what was followed is not followed again, and the rule refuses what is not better."""

import json
import shutil

import cv2
import numpy as np
import pytest

from benchmarks.selection import __main__ as command
from benchmarks.selection import figures, runs
from benchmarks.selection.clips import excerpts, material_of
from benchmarks.selection.runs import Contender
from engine.cli.exits import run_function
from engine.training.validate import sequences
from tests.engine.evaluation import trees

PEER = """
class NanoTrack:
    def __init__(self, image, box):
        self.box = list(box)
    def update(self, image):
        self.box[0] += {step} * image.shape[1] / 96
        return self.box
"""
PERFECT = 100 * 20 / 21  # OTB's success plot: IoU > 1 never holds


@pytest.fixture
def data(tmp_path):
    for name, frames in (("long", 9), ("short", 5)):
        trees.otb(tmp_path / "data", name, frames, truth="groundtruth.txt")
    return tmp_path / "data"


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        run_function(command.main, list(map(str, arguments)))
    return caught.value.code or 0


def test_clips_are_reduced_and_begin_where_they_say(data):
    clips = {clip.name: clip for clip in excerpts(sequences(data), [1, 2], [0, 4], 6)}
    assert list(clips) == ["long@1+0", "short@1+0", "long@2+0", "short@2+0", "long@1+4", "long@2+4"]  # one frame is no clip
    full, half = clips["long@1+4"], clips["long@2+4"]
    assert len(full) == len(half) == 5
    assert len(clips["long@1+0"]) == 6
    assert np.allclose(full.boxes()[0], trees.moving_boxes(9)[4])
    assert np.allclose(half.boxes(), full.boxes() / 2)
    images = list(half.frames())
    assert len(images) == 5
    small = cv2.resize(next(full.frames()), (48, 32), interpolation=cv2.INTER_AREA)
    assert images[0].shape == small.shape
    gap = np.abs(images[0].astype(int) - small).mean()
    assert 0 < gap < 8  # JPEG's traces, no more
    assert np.array_equal(next(full.frames()), list(full.sequence.frames())[4])


def test_a_sequence_counts_once_and_a_video_once_for_each_target(data, tmp_path):
    shutil.copy(data / "long" / "groundtruth.txt", data / "long" / "groundtruth_2.txt")
    assert [one.name for one in material_of(data)] == ["long", "short"]
    trees.video(tmp_path / "videos", "clip", 5)
    truth = tmp_path / "videos" / "clip.txt"
    for target in ("left", "right"):
        shutil.copy(truth, truth.with_name(f"clip.{target}.txt"))
    truth.unlink()
    clips = excerpts(material_of(tmp_path / "videos"), [2], [1], None)
    assert [clip.name for clip in clips] == ["clip.left@2+1", "clip.right@2+1"]
    assert [image.shape for image in clips[0].frames()] == [(trees.HEIGHT // 2, trees.WIDTH // 2, 3)] * 4


def test_folders_are_judged_together(data, tmp_path, tiny_weights, capsys):
    more = tmp_path / "more"
    shutil.copytree(data / "short", more / "third")
    common = ["--cache", tmp_path / "cache", "--scales", "1", "--starts", "0", "--frames", 3, "--no-whole", "--store", tmp_path]
    assert run(tiny_weights, "--data", data, "--data", more, *common) == 0
    content = json.loads((tmp_path / "selection-data+more-fp32.json").read_text())
    assert content["about"]["folder"] == "data+more"
    assert sorted(content["rows"][0]["sequences"]) == ["long", "short", "third"]
    capsys.readouterr()
    assert run(tiny_weights, "--data", data, "--data", data, *common) == 2
    assert f"expected sequences of different names, got long in {data}" in " ".join(capsys.readouterr().err.split())


def test_a_clip_begins_where_there_is_a_box(data):
    lines = (data / "long" / "groundtruth.txt").read_text().splitlines()
    (data / "long" / "groundtruth.txt").write_text("\n".join([lines[0], "nan,nan,nan,nan", "5,5,0,0", *lines[3:]]))
    long = [clip for clip in excerpts(sequences(data), [1], [0, 1, 3], None) if clip.sequence.name == "long"]
    assert [clip.start for clip in long] == [0, 3]  # frames 1 and 3 are one clip


def test_what_was_followed_is_not_followed_again(data, tmp_path, tiny_weights, monkeypatch, capsys):
    other, right, still = tmp_path / "other.safetensors", tmp_path / "right.py", tmp_path / "still" / "still.py"
    shutil.copy(tiny_weights, other)
    with other.open("r+b") as file:  # one parameter differs: another hash
        file.seek(-4, 2)
        file.write(np.float32(0.125).tobytes())
    right.write_text(PEER.format(step=2))
    still.parent.mkdir()
    still.write_text(PEER.format(step=0))
    cache, kept = tmp_path / "cache", tmp_path / "kept"
    common = ["--data", data, "--cache", cache, "--scales", "1,2", "--starts", "0,2", "--frames", 4, "--store", kept]
    assert run(tiny_weights, "--peer", right, "--peer", still, *common) == 0
    assert "0 of 126 frames" in capsys.readouterr().err  # three contenders, two sizes, 9 + 5 frames from the start and 4 + 3 later
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.json")}
    assert len(before) == 3 * 2 * 4
    content = json.loads((kept / "selection-data-fp32.json").read_text())
    by_name = {(row["contender"], row["clips"], row["scale"]): row for row in content["rows"]}
    assert len(by_name) == 3 * 2 * 2
    for kind in ("starts", "whole"):
        for scale in (1, 2):
            assert by_name["right", kind, scale]["auc"] == pytest.approx(PERFECT)
            assert by_name["still", kind, scale]["auc"] < 80
    whole, starts = by_name["tiny", "whole", 2], by_name["tiny", "starts", 2]
    assert (whole["clip_count"], whole["frame_count"]) == (2, 14)
    assert (starts["clip_count"], starts["frame_count"]) == (4, 4 + 4 + 4 + 3)
    gap = by_name["right", "starts", 1]
    assert gap["difference"] == pytest.approx(PERFECT - by_name["tiny", "starts", 1]["auc"])
    assert gap["interval"][0] <= gap["difference"] <= gap["interval"][1]
    assert content["choice"]["shipped"] == "tiny"  # peers are never shipped

    assert run(tiny_weights, other, *common) == 0
    after = {path: path.stat().st_mtime_ns for path in cache.rglob("*.json")}
    assert {path: after[path] for path in before} == before
    assert len({path.parent for path in after.keys() - before.keys()}) == 1
    assert len(after) - len(before) == 2 * 4
    assert "| other | half |" in (kept / "selection-data-fp32.md").read_text()

    def refuse(*arguments, **more):
        raise AssertionError("nothing is left to follow")

    monkeypatch.setattr(runs, "ProcessPoolExecutor", refuse)
    output = tmp_path / "rows.json"
    assert run(tiny_weights, other, "--peer", still, *common, "--json", output) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["auc"] for row in rows if row.get("contender") == "tiny" and row["clips"] == "whole"] == [
        by_name["tiny", "whole", scale]["auc"] for scale in (1, 2)
    ]
    for path in (cache / Contender("still", str(still), peer=True).key).glob("long@1+*.json"):
        path.write_text(path.read_text()[:40])  # a file that was cut
    assert run(tiny_weights, "--peer", still, *common[:-2], "--no-follow", "--json", output) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert {row["scale"]: row["clip_count"] for row in rows if row.get("clips") == "starts" and row["contender"] == "tiny"} == {1: 2, 2: 4}
    assert rows[0]["clips"] == [6, 8]
    assert run("--peer", still, *common[:-2], "--cache", tmp_path / "empty", "--no-follow") == 2


def test_kept_boxes_hold_for_a_shorter_clip_and_not_for_other_frames(data, tmp_path):
    peer = tmp_path / "right.py"
    peer.write_text(PEER.format(step=2))
    contender = Contender("right", str(peer), peer=True)
    (long, *_) = excerpts(sequences(data), [1], [0], None)
    boxes = runs._run(contender, long, tmp_path / "cache")
    (short, *_) = excerpts(sequences(data), [1], [0], 3)
    assert np.array_equal(runs.kept([contender], [short], tmp_path / "cache")["right", "long@1+0"], boxes[:3])
    trees.write_images(data / "long" / "img", trees.moving_boxes(9)[::-1], "{:04d}.jpg")
    assert runs.kept([contender], [short], tmp_path / "cache") == {}


def _rows(name: str, values: list[float]) -> list[figures.Row]:
    return [figures.Row(name, "starts", scale, value, {"a": value}, 1, 1) for scale, value in zip((1, 2, 4), values, strict=True)]


def test_the_rule_wants_every_size():
    entered = [Contender(name, name) for name in ("old", "uneven", "better", "best")] + [Contender("peer", "peer", peer=True)]
    old, uneven, peer = _rows("old", [70, 60, 50]), _rows("uneven", [80, 70, 49.9]), _rows("peer", [90, 90, 90])
    choice = figures.choose([*old, *uneven, *peer], [entered[0], entered[1], entered[4]])
    assert choice["shipped"] == "old"
    assert figures.verdict(choice) == "old stays: uneven is better at full, half of full, half, quarter."
    equal = figures.choose([*old, *_rows("uneven", [70, 61, 51])], entered[:2])
    assert equal["shipped"] == "old"
    better, best = _rows("better", [70.1, 60.1, 50.1]), _rows("best", [71, 61, 51])
    choice = figures.choose([*old, *uneven, *better, *best, *peer], entered)
    assert choice["shipped"] == "best"
    assert figures.verdict(choice) == "best would be shipped instead of old: better at every size (full, half, quarter)."
    partial = [row for row in (*old, *best) if row.scale < 4]  # the quarter was not run
    assert figures.choose(partial, [entered[0], entered[3]])["shipped"] == "old"
    whole = [figures.Row("better", "whole", 1, 0.0, {"a": 0.0}, 1, 1)]  # reported, not asked
    assert figures.choose([*old, *better, *whole], [entered[0], entered[2]])["shipped"] == "better"


def test_differences_are_paired_by_sequence():
    first = figures.Row("old", "starts", 1, 50.0, {"a": 20.0, "b": 80.0}, 2, 2)
    row = figures.against(figures.Row("new", "starts", 1, 52.0, {"b": 82.0, "a": 22.0}, 2, 2), first)
    assert row.difference == pytest.approx(2)
    assert row.interval == pytest.approx((2, 2))  # unpaired it would reach from -58 to 62


def test_bad_input(data, tmp_path, tiny_weights, capsys):
    assert run(tmp_path / "none.safetensors", "--data", data) == 2
    assert run(tiny_weights, tiny_weights, "--data", data) == 2
    assert "expected files of different names, got tiny twice" in " ".join(capsys.readouterr().err.split())
    assert run(tiny_weights, "--peer", tmp_path / "none.py", "--data", data) == 2
    assert run(tiny_weights, "--data", data, "--starts", "-1") == 2
    assert run(tiny_weights, "--data", data, "--starts", "100") == 2
    assert run(tiny_weights, "--data", tmp_path / "nowhere") == 2
    (tmp_path / "empty.py").write_text("")
    assert run(tiny_weights, "--peer", tmp_path / "empty.py", "--data", data, "--no-follow", "--cache", tmp_path / "c") == 2
