"""Labelling by tracking in both directions: what agrees stays, what was lost goes."""

import csv
import re

import numpy as np
import pytest

from engine.datasets.text import read_boxes
from engine.training.follow import product
from engine.training.pseudo import RECORD, consistent_track, label, main, merge
from engine.training.sources import read_video
from tests.engine.evaluation import trees


def frames(count, lost_from=None):
    """Frames whose only pixel says where the object is; after `lost_from` it says nothing."""
    return [np.array([5.0 * t if lost_from is None or t < lost_from else np.nan]) for t in range(count)]


def follow(sequence, box):
    """Finds the object while it is there, and stands still when it is not."""
    boxes, place = [], np.array(box, float)
    for frame in sequence:
        if np.isfinite(frame[0]):
            place = np.array([frame[0], 10.0, 20.0, 20.0])
        boxes.append(place)
    return np.array(boxes)


def drifting(sequence, box):
    """Loses the object where it is not seen, and does not come back."""
    boxes, place, lost = [], np.array(box, float), False
    for frame in sequence:
        lost = lost or not np.isfinite(frame[0])
        place = np.add(place, [30.0, 0, 0, 0]) if lost else np.array([frame[0], 10.0, 20.0, 20.0])
        boxes.append(place)
    return np.array(boxes)


def test_a_good_tracker_labels_every_frame():
    boxes = label(frames(100), 50, np.array([250.0, 10, 20, 20]), follow)
    assert boxes.shape == (100, 4)
    assert np.allclose(boxes[:, 0], 5.0 * np.arange(100))


def test_a_lost_object_ends_the_track():
    boxes = consistent_track(frames(120, lost_from=60), np.array([0.0, 10, 20, 20]), drifting)
    assert np.isfinite(boxes[:40]).all()
    assert np.isnan(boxes[81:]).all()


def test_nothing_is_followed_behind_a_loss():
    seen = []

    def counting(sequence, box):
        for frame, place in zip(sequence, drifting(sequence, box), strict=True):
            seen.append(frame)
            yield place

    consistent_track(frames(400, lost_from=60), np.array([0.0, 10, 20, 20]), counting)
    assert len(seen) <= 4 * 41


def test_merging_keeps_what_both_teachers_mean_and_what_one_of_them_knows():
    one, other = (np.tile([10.0, 10, 20, 20], (10, 1)) for _ in range(2))
    one[:, 0] += 1  # IoU 0.90
    one[6] = np.nan
    other[7] = np.nan
    other[8, 0] = 100  # a contradiction
    one[9] = other[9] = np.nan
    merged, choice = merge(one, other)
    assert choice == "both"
    assert merged[:6, 0] == pytest.approx(10.5)
    assert merged[6, 0] == 10
    assert merged[7, 0] == 11
    assert np.isnan(merged[8:]).all()


def test_of_teachers_that_follow_different_objects_the_one_that_keeps_more_frames_is_taken():
    one, other = np.tile([10.0, 10, 20, 20], (10, 1)), np.tile([100.0, 10, 20, 20], (10, 1))
    one[9] = np.nan
    merged, choice = merge(one, other)
    assert (choice, merged[0, 0], merged[9, 0]) == ("second", 100, 100)
    other[5:] = np.nan
    merged, choice = merge(one, other)
    assert (choice, merged[0, 0]) == ("first", 10)
    assert np.isnan(merged[9]).all()


PEER = """
class NanoTrack:
    def __init__(self, image, box):
        self.box = box
    def update(self, image):
        return self.box
"""


@pytest.fixture
def clips(tmp_path):
    """A clip, two starts in it, and a peer that gives the start's box for ever."""
    trees.video(tmp_path / "videos", "a")
    (tmp_path / "starts.csv").write_text("clip,frame,x,y,w,h\na,2,30,20,16,16\na,0,60,20,16,16\n")
    (tmp_path / "peer.py").write_text(PEER)
    return tmp_path


def arguments(clips, *more):
    return [str(clips / "starts.csv"), str(clips / "videos"), str(clips / "out"), *map(str, more)]


def test_the_products_weights_and_a_peer_label_the_same_clips_and_a_second_run_reads_what_is_there(clips, tiny_weights, capsys):
    teachers = ("--tracker", clips / "peer.py", "--weights", tiny_weights, "--dtype", "fp32")
    main(arguments(clips, *teachers))
    out = clips / "out"
    shown = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in shown] == ["track a.0", "track a.1"]
    folders = sorted(path.name for path in out.iterdir() if path.is_dir())
    assert folders[0] == "peer"
    assert re.fullmatch(r"tiny-[0-9a-f]{8}-fp32", folders[1])
    boxes = {folder: read_boxes(out / folder / "a.0.txt") for folder in folders}
    assert np.allclose(boxes["peer"], [30, 20, 16, 16])  # it agrees with itself
    assert not np.array_equal(boxes["peer"], boxes[folders[1]])  # random weights follow nothing
    follow = product(tiny_weights, "fp32")
    frames, _ = read_video(clips / "videos" / "a.mp4")
    assert np.allclose(boxes[folders[1]], label(frames, 2, np.array([30.0, 20, 16, 16]), follow), atol=0.006, equal_nan=True)
    with (out / RECORD).open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    merged, choice = merge(boxes["peer"], boxes[folders[1]])
    assert np.allclose(read_boxes(out / "a.0.txt"), merged, atol=0.006, equal_nan=True)
    assert (rows[0]["frames"], rows[0]["peer"], rows[0]["kept"]) == ("6", "6", str(np.isfinite(merged).all(1).sum()))
    assert rows[0][folders[1]] == str(np.isfinite(boxes[folders[1]]).all(1).sum())
    assert rows[0]["of"] == {"first": "peer", "second": folders[1]}.get(choice, choice)

    (clips / "videos" / "a.mp4").unlink()  # whoever needed a frame would fail
    (out / "a.0.txt").unlink()
    main(arguments(clips, *teachers))
    assert capsys.readouterr().out.splitlines() == shown
    assert np.allclose(read_boxes(out / "a.0.txt"), merged, atol=0.006, equal_nan=True)


def test_bad_input_is_a_line_and_exit_code_2(clips, capsys):
    def refused(*more):
        with pytest.raises(SystemExit) as stop:
            main(arguments(clips, *more))
        assert stop.value.code == 2
        return capsys.readouterr().err

    assert "expected a teacher" in refused()
    assert "weights file not found" in refused("--weights", "none.safetensors")
    (clips / "other.py").write_text("x = 1")
    assert "expected a class NanoTrack" in refused("--tracker", clips / "other.py")
    assert "cannot load a tracker from" in refused("--tracker", clips / "none.py")
    (clips / "failing.py").write_text(
        "class NanoTrack:\n    def __init__(self, image, box): pass\n    def update(self, image): raise KeyError('gone')"
    )
    assert "failing.py failed: KeyError: 'gone'" in refused("--tracker", clips / "failing.py")
    (clips / "starts.csv").write_text("clip,frame,x,y,w,h\na,0,1,2,3\n")
    assert "line 2: expected clip, frame, x, y, w, h" in refused("--tracker", clips / "peer.py")
    for wrong in ("a,-1,1,2,3,4", "a,0,1,2,0,4", "a,0,nan,2,3,4"):
        (clips / "starts.csv").write_text(f"clip,frame,x,y,w,h\n{wrong}\n")
        assert "a box with sides above 0" in refused("--tracker", clips / "peer.py")
    (clips / "starts.csv").write_bytes(b"clip,frame,x,y,w,h\n\xff\n")
    assert "cannot read" in refused("--tracker", clips / "peer.py")
    (clips / "starts.csv").unlink()
    assert "cannot read" in refused("--tracker", clips / "peer.py")
    assert not (clips / "out").exists()
