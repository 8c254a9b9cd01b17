"""The benchmark of loss and return: the clips are what they say, and its figures count what they name."""

import cv2
import numpy as np
import pytest

from benchmarks.loss.clips import Job, targets
from benchmarks.loss.disturb import KINDS, LEAD, LENGTHS, TAIL, disturb
from benchmarks.loss.figures import by_target, compared, disturbances, interval, left_out, replay, separation
from benchmarks.loss.record import Remembering, Track, track
from engine import StateThresholds, Tracker
from engine.datasets.layouts import open_dataset
from engine.errors import DatasetError
from engine.runners.protocol import Observation


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


class Counting:
    """A runner that counts the regions that it is asked for."""

    def __init__(self, runner):
        self.config, self.device, self.dtype, self.runner, self.regions = runner.config, runner.device, runner.dtype, runner, 0

    def encode_template(self, *arguments):
        return self.runner.encode_template(*arguments)

    def observe(self, frame, boxes, templates, bgr):
        self.regions += len(boxes)
        return self.runner.observe(frame, boxes, templates, bgr)


def test_a_second_run_asks_the_network_for_nothing_and_finds_the_same(sequences, tiny_weights, tmp_path):
    runner = Counting(Tracker(tiny_weights, device="cpu", dtype="fp32").runner)
    job = Job(sequences[0], 20, 2)
    first = track(job, Remembering(runner), tmp_path)
    asked = runner.regions
    assert asked >= 19
    second = track(job, Remembering(runner), tmp_path)
    assert runner.regions == asked
    assert np.array_equal(first.default, second.default)
    assert np.array_equal(first.public, second.public)
    assert first.state == second.state
    assert first.size == pytest.approx(10)


def test_shrunk_frames_hold_the_shrunk_target(sequences):
    clip = Job(sequences[0], 5, 2).clip()
    assert clip.frames[0].shape == (45, 60, 3)
    assert clip.boxes[0].tolist() == [10, 15, 10, 10]
    assert _red_share(clip.frames[0], clip.boxes[0]) > 0.7


def test_every_target_of_a_scene_is_found_and_belongs_to_its_fold(tmp_path, sequences):
    folder = sequences[0].images[0].parent.parent
    (tmp_path / "scene-1").mkdir()
    (tmp_path / "scene-1" / "img").symlink_to(folder / "img")
    for name in ("groundtruth.txt", "groundtruth_2.txt"):
        (tmp_path / "scene-1" / name).write_text("1,2,3,4\nnan,nan,nan,nan\n")
    found = targets(tmp_path)
    assert [target.name for target in found] == ["scene-1", "scene-2"]
    assert {Job(target, 5).fold for target in found} == {"scene"}
    assert len(found[0].images) == 2
    with pytest.raises(DatasetError, match="expected sequences"):
        targets(tmp_path / "scene-1" / "img")


def _observation(score):
    box = (0.0, 0.0, 10.0, 10.0)
    return Observation(box, box, 40.0, score, score, None, np.ones(2, np.float32))


def _track(name="a@1", scores=(0.8,) * 40, public=0.8, default=0.8, states="T" * 40, gone=0, back=0, size=20.0):
    count = len(scores)
    visible = [0.0 if gone <= index < back else 1.0 for index in range(count)]
    names = {"T": "TRACKING", "U": "UNCERTAIN", "L": "LOST"}
    overlaps = [np.where(np.array(visible) > 0, value, 0.0) for value in (public, default)]
    return Track(
        *(name, name[0], "cut" if back else "plain", gone, back, size, visible, *overlaps, [True] * count),
        *([names[state] for state in states], 0, [_observation(score) for score in scores]),
    )


def test_false_losts_are_counted_where_the_public_loop_has_its_target():
    """The default loop's own boxes are far off: that must not hide the loss."""
    found = compared([_track(default=0.0, states="T" * 30 + "L" * 10), _track("b@1", public=0.9, default=0.9, size=5.0)])
    assert found["false_lost"] == pytest.approx(0.125)
    assert found["false_lost_most"] == ["a@1", 0.25]
    assert found["AUC_worst"][0] == "a@1"
    assert found["AUC_lose_more_than_2"] == 1
    assert found["sizes"]["under 16 px"] == {**found["sizes"]["under 16 px"], "clips": 1, "frames": 40, "false_lost": 0.0}
    low, high = found["false_lost_interval"]
    assert 0 <= low <= 0.125 <= high <= 0.25


def test_intervals_are_over_targets():
    """Three sizes of a target say no more than one, where they say the same."""
    values = dict(zip("abcdef", (0.0, 0.1, 0.3, 0.35, 0.7, 0.9), strict=True))
    sizes = {f"{name}.left@{size}": value for name, value in values.items() for size in (1, 2, 4)}
    assert interval(by_target(sizes)) == pytest.approx(interval([value] for value in values.values()))
    found = compared([_track(name, default=0.5 + value / 3) for name, value in sizes.items()])
    alone = compared([_track(f"{name}@1", default=0.5 + value / 3) for name, value in values.items()])
    assert found["AUC_difference_interval"] == pytest.approx(alone["AUC_difference_interval"])
    lost = [_track(f"{name}@{size}", states="L" * lost + "T" * (40 - lost)) for name, lost in (("a", 20), ("b", 0)) for size in (1, 2, 4)]
    assert compared(lost)["false_lost_interval"] == pytest.approx([0, 0.5])
    assert interval([[1.0, 1.0, 1.0], [0.0]])[0] == 0.0
    assert interval([[1.0, 1.0, 1.0, 4.0]]) == [1.75, 1.75]  # of all values' mean


def test_disturbances_are_flagged_and_ended_in_time():
    away = "T" * 10 + "U" * 5 + "L" * 15 + "L" * 5 + "T" * 5
    late = "T" * 10 + "U" * 16 + "L" * 4 + "L" * 10
    early = "T" * 10 + "L" * 5 + "T" * 15 + "T" * 10
    tracks = [_track(states=states, gone=10, back=30) for states in (away, late, early)]
    found = disturbances([*tracks, _track(public=0.1, gone=10, back=30)])
    assert found == {"flagged": [2, 3], "returned": [2, 3], "wrong_returns": [1, 3], "without_target_before": 1, "frames": 120}


def test_a_level_is_never_chosen_on_the_scene_that_it_is_reported_for():
    """Losses of four scenes fall to 0.05, of two to 0.28: without one of the two, low levels flag enough of the others, and not that one."""
    steady = [_track(f"{name}@1", scores=(1.0,) * 40) for name in "bcdef"]
    low = _track("a@1", scores=(1.0,) * 5 + (0.27,) * 35)
    away = [
        _track(f"{name}-cut-x", scores=(1.0,) * 10 + (depth,) * 20 + (1.0,) * 10, gone=10, back=30)
        for name, depth in (("b", 0.05), ("c", 0.05), ("d", 0.05), ("g", 0.05), ("e", 0.28), ("f", 0.28))
    ]
    found = left_out([low, *steady], away)
    assert found["gone"] == {0.1: 2, 0.3: 5}
    assert found["flagged"] == [4, 6]  # 0.3 would flag those of e and f, but the other scenes choose 0.1
    assert found["false_lost_most"][0] == "a@1"
    assert found["false_lost_most"][1] > 0.5
    assert replay(low, StateThresholds(gone=0.25)).count("LOST") == 0


def test_the_confidence_separates_what_the_truth_separates():
    found = separation([_track(scores=(0.8,) * 10 + (0.1,) * 20 + (0.8,) * 10, gone=10, back=30)])
    assert found["score"] == 1.0
    assert found["confidence"] == 1.0
    assert (found["good_frames"], found["frames_without_target"]) == (20, 20)
