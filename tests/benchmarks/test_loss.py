"""Calibration of the loss: the clips are what they say, and the thresholds keep their limits."""

import dataclasses

import cv2
import numpy as np
import pytest

from benchmarks.loss.calibrate import FALSE_ALARMS, FLAG_WITHIN, GRID, choose_found, choose_lost, good_frames, reached, separation
from benchmarks.loss.disturb import KINDS, LEAD, LENGTHS, TAIL, disturb
from benchmarks.loss.record import Track, follow
from engine import Tracker
from engine.datasets.layouts import open_dataset
from engine.datasets.sequences import Sequence
from engine.tracking.state import StateThresholds


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    """Two short sequences of grey noise, each with a target of one colour that moves to the right."""
    root = tmp_path_factory.mktemp("sequences")
    rng = np.random.default_rng(0)
    for name, colour in (("one", (0, 0, 255)), ("two", (0, 255, 0))):
        images = []
        for index in range(30):
            image = np.repeat(rng.integers(60, 120, (90, 120, 1), np.uint8), 3, axis=2)
            image[30:50, 20 + index : 40 + index] = colour
            images.append(image)
        boxes = np.array([(20.0 + index, 30.0, 20.0, 20.0) for index in range(30)])
        (root / name / "img").mkdir(parents=True)
        for index, image in enumerate(images, 1):
            cv2.imwrite(str(root / name / "img" / f"{index:04d}.png"), image)
        (root / name / "groundtruth.txt").write_text("".join(",".join(map(str, box)) + "\n" for box in boxes.tolist()))
    return open_dataset(root).sequences


def _red_share(frame, box):
    x, y, w, h = (round(float(value)) for value in box)
    inside = frame[max(y, 0) : y + h, max(x, 0) : max(x + w, 0)]
    return float(np.sum((inside[..., 2] == 255) & (inside[..., 1] == 0)) / (w * h))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_the_target_is_seen_where_the_truth_says_and_gone_in_between(sequences, kind, seed):
    one, two = sequences
    clip = disturb(one, two, kind, seed)
    again = disturb(one, two, kind, seed)
    assert all(np.array_equal(a, b) for a, b in zip(clip.frames, again.frames, strict=True))
    assert np.array_equal(clip.boxes, again.boxes)
    assert len(clip.frames) == len(clip.boxes) == len(clip.visible)
    assert clip.gone >= LEAD
    assert min(LENGTHS) <= clip.back - clip.gone <= max(LENGTHS) + 12
    assert len(clip.frames) - clip.back >= TAIL
    shares = np.array([_red_share(frame, box) for frame, box in zip(clip.frames, clip.boxes, strict=True)])
    assert np.abs(shares - clip.visible).max() < 0.15  # whole pixels of a box of 20
    assert all(frame.shape == (90, 120, 3) and frame.dtype == np.uint8 for frame in clip.frames)


def test_seeds_differ(sequences):
    one, two = sequences
    assert len({disturb(one, two, "cover", seed).frames[LEAD + 3].tobytes() for seed in range(4)}) > 1


def test_following_gives_one_entry_a_frame(sequences, tiny_weights):
    clip = disturb(*sequences, "cut", 0)
    track = follow(clip, Tracker(tiny_weights, device="cpu", dtype="fp32"))
    count = len(clip.frames) - 1
    assert [len(values) for values in (track.confidence, track.state, track.overlap, track.visible, track.boxes)] == [count] * 5
    assert track.visible[track.gone - 1] > 0.1 >= track.visible[track.gone]


def _track(kind, before, away, after, states):
    count = before + away + after
    confidence = [0.8] * before + [0.2] * away + [0.7] * after
    overlap = [0.8] * before + [0.0] * away + [0.8] * after
    gone, back = (0, 0) if kind == "plain" else (before, before + away)
    return Track(
        kind,
        kind,
        gone,
        back,
        confidence,
        [1 - value for value in confidence],
        states,
        overlap,
        [float(value > 0) for value in overlap],
        [(0.0, 0.0, 1.0, 1.0)] * count,
    )


def test_thresholds_lie_between_the_confidences_with_and_without_the_target():
    tracks = [_track("cover", 20, 20, 20, [""] * 60), _track("cut", 20, 30, 20, [""] * 70)]
    thresholds, curves = choose_lost(tracks)
    assert 0.2 < thresholds.lost <= 0.8
    assert thresholds.lost <= thresholds.confident == thresholds.found
    chosen = list(GRID).index(thresholds.lost)
    assert curves.false_alarms[chosen] <= FALSE_ALARMS
    assert curves.flagged[chosen] == 1
    assert np.all(np.diff(curves.flagged) >= 0)
    assert good_frames(tracks[0]).sum() == 20


def test_a_return_threshold_is_chosen_by_right_and_wrong_returns():
    right = _track("cover", 20, 20, 40, ["TRACKING"] * 24 + ["LOST"] * 20 + ["TRACKING"] * 36)
    wrong = _track("cover", 20, 20, 40, ["TRACKING"] * 24 + ["LOST"] * 5 + ["TRACKING"] * 51)
    never = _track("cover", 20, 20, 40, ["TRACKING"] * 24 + ["LOST"] * 56)
    low, middle, high = (StateThresholds(found=found) for found in (0.75, 0.8, 0.9))
    assert choose_found([(low, [wrong, right]), (middle, [right, right]), (high, [right, never])]) is middle
    assert choose_found([(low, [right]), (middle, [right]), (high, [never])]) is middle


def test_separation_is_the_area_under_the_curve():
    tracks = [_track("cover", 20, 20, 20, [""] * 60)]
    assert separation(tracks, "confidence") == 1.0
    assert separation(tracks, "score") == 0.0
    equal = dataclasses.replace(tracks[0], confidence=[0.5] * 60)
    assert separation([equal], "confidence") == 0.5


def test_what_was_reached_is_counted():
    good = _track("cover", 20, 20, 40, ["TRACKING"] * 24 + ["LOST"] * 20 + ["TRACKING"] * 36)
    late = _track("cut", 20, 20, 40, ["TRACKING"] * 31 + ["LOST"] * 49)
    early = _track("leave", 20, 20, 40, ["TRACKING"] * 22 + ["LOST"] * 5 + ["TRACKING"] * 53)
    found = reached([good, late, early])
    assert found["flagged"] == [2, 3]
    assert found["returned"] == [2, 3]
    assert found["wrong_returns"] == [1, 3]
    assert found["false_lost"] == [4 + 40, 180]
    assert found["without_target_before"] == 0


def test_a_sequence_is_needed_for_each_side(tmp_path, sequences):
    from benchmarks.loss.__main__ import scored
    from engine.errors import DatasetError

    assert all(isinstance(sequence, Sequence) for sequence in sequences)
    (tmp_path / "one" / "img").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "one" / "img" / "1.png"), np.zeros((20, 20, 3), np.uint8))
    (tmp_path / "one" / "groundtruth.txt").write_text("1,1,10,10\n")
    with pytest.raises(DatasetError, match="calibration needs two sequences"):
        scored(tmp_path)


def test_a_real_target_is_lost_and_found(shared):
    found = {sequence.name: sequence for sequence in open_dataset(shared / "data" / "eval_dev").sequences}
    clip = disturb(found["otb_Crossing"], found["vot_bag"], "leave", 0)
    track = follow(clip, Tracker(device="cpu"))
    assert "LOST" not in track.state[: track.gone - 3]
    assert "LOST" in track.state[track.gone : track.gone + FLAG_WITHIN]
    assert "TRACKING" not in track.state[track.gone + FLAG_WITHIN : track.back]
    assert reached([track])["returned"] == [1, 1]
