"""The device-resident loop on the CPU: the boxes of the host's loop, in any order of events that its waits allow."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch

from engine import Tracker, TrackerConfig
from engine.errors import BoxError, ConfigError, FrameError, StateError, WeightsError
from engine.runners.gpu.loop import FrameLoop
from engine.runners.gpu.runner import observation
from engine.tracking.state import StateThresholds
from engine.tracking.target import Target
from tests.engine.runners.gpu import models
from tests.engine.runners.gpu.late import POLICIES, LateStreams

PUBLIC = TrackerConfig(loop="public")  # random weights follow nothing
BOX, OTHER = (50.0, 40.0, 30.0, 24.0), (12.0, 20.0, 18.0, 30.0)


@pytest.fixture(scope="module")
def runner():
    return models.runner()


def _alone(runner, pictures, box, **config):
    tracker = Tracker(runner, config=TrackerConfig(**{"loop": "public", **config}))
    tracker.init(pictures[0], box)
    return [tracker.update(picture) for picture in pictures[1:]]


def _same(found, expected):
    np.testing.assert_allclose(found.box, expected.box, rtol=0, atol=0.01)
    assert found.score == pytest.approx(expected.score, abs=1e-5)
    assert found.search_region == pytest.approx(expected.search_region, abs=0.02)
    assert (found.state, found.frame_index) == (expected.state, expected.frame_index)


@pytest.mark.parametrize("color", ["bgr", "rgb"])
def test_the_loop_equals_the_tracker(runner, color):
    pictures = [*models.frames(5), *models.frames(2, 200, 70, seed=1)]
    loop = FrameLoop(runner, config=TrackerConfig(color=color, loop="public"))
    loop.init(0, pictures[0], BOX)
    assert [loop.submit(picture) for picture in pictures[1:]] == list(range(6))
    results = loop.results(wait=True)
    assert [result.frame_index for result in results] == list(range(6))
    for result, expected in zip(results, _alone(runner, pictures, BOX, color=color), strict=True):
        _same(result.targets[0], expected)
    assert loop.results(wait=True) == []


def test_boxes_that_are_clipped_are_the_tracker_s_to_the_last_bit():
    """In bf16 the box soon fills the frame's width: half of it lies on a tie of the next region's rounding, where one bit moves a pixel."""
    runner = models.runner("bf16")
    pictures = models.frames(30)[:20]
    loop = FrameLoop(runner, config=PUBLIC)
    loop.init(0, pictures[0], BOX)
    for picture in pictures[1:]:
        loop.submit(picture)
    found = [result.targets[0].box for result in loop.results(wait=True)]
    assert found == [expected.box for expected in _alone(runner, pictures, BOX)]
    assert any(box[0] == 0.0 and box[2] == 120.0 for box in found)


def test_several_targets_and_streams_equal_separate_trackers(runner):
    """Two video streams of different sizes, one with two targets."""
    first, second = models.frames(5), models.frames(5, 70, 150, seed=1)
    loop = FrameLoop(runner, targets=(2, 1), config=PUBLIC)
    loop.init(0, first[0], BOX)
    loop.init(1, first[0], OTHER)
    loop.init(2, second[0], OTHER)
    for pair in zip(first[1:], second[1:], strict=True):
        loop.submit(*pair)
    expected = [_alone(runner, first, BOX), _alone(runner, first, OTHER), _alone(runner, second, OTHER)]
    for index, result in enumerate(loop.results(wait=True)):
        for slot in range(3):
            _same(result.targets[slot], expected[slot][index])


def test_a_frame_without_finite_numbers_is_lost_for_all_its_targets_alike(runner, monkeypatch):
    read, seen = observation, []

    def spoilt(*arguments):
        seen.append(read(*arguments))
        return seen[-1]._replace(score=float("nan")) if len(seen) == 4 else seen[-1]  # the second target's in frame 1

    monkeypatch.setattr("engine.runners.gpu.loop.observation", spoilt)
    pictures = models.frames(5)
    loop = FrameLoop(runner, targets=(2,), config=PUBLIC)
    loop.init(0, pictures[0], BOX)
    loop.init(1, pictures[0], OTHER)
    for picture in pictures[1:]:
        loop.submit(picture)
    with pytest.raises(WeightsError, match="must give finite numbers"):
        loop.results(wait=True)
    found = [(result.frame_index, [target.frame_index for target in result.targets.values()]) for result in loop.results(wait=True)]
    assert found == [(0, [1, 1]), (2, [2, 2]), (3, [3, 3])]


def test_a_place_gets_another_target_and_loses_it_without_capturing_again(runner):
    pictures = models.frames(7)
    loop = FrameLoop(runner, targets=(2,), config=PUBLIC)
    loop.init(0, pictures[0], BOX)
    loop.submit(pictures[1])
    loop.submit(pictures[2])
    captures = loop.plan.captures
    loop.init(0, pictures[2], OTHER)
    loop.init(1, pictures[2], BOX)
    loop.submit(pictures[3])
    loop.remove(1)
    loop.submit(models.frames(1, 120, 160)[0])
    results = loop.results(wait=True)
    assert [sorted(result.targets) for result in results] == [[0], [0], [0, 1], [0]]
    _same(results[2].targets[0], _alone(runner, pictures[2:], OTHER)[0])
    _same(results[2].targets[1], _alone(runner, pictures[2:], BOX)[0])
    assert [result.targets[0].frame_index for result in results] == [1, 2, 1, 2]
    assert loop.plan.captures == captures == 2  # one for each slot


def test_a_larger_frame_captures_again_and_the_state_stays(runner):
    pictures = models.frames(5)
    pictures[3] = np.tile(pictures[3], (13, 17, 1))
    assert pictures[3].size > 1920 * 1080 * 3
    loop = FrameLoop(runner, config=PUBLIC)
    loop.init(0, pictures[0], BOX)
    for picture in pictures[1:]:
        loop.submit(picture)
    for result, expected in zip(loop.results(wait=True), _alone(runner, pictures, BOX), strict=True):
        _same(result.targets[0], expected)
    assert loop.plan.captures == 4


def test_a_written_box_is_where_the_next_frame_is_searched(runner):
    pictures = models.frames(4)
    loop = FrameLoop(runner, config=PUBLIC)
    loop.init(0, pictures[0], BOX)
    loop.submit(pictures[1])
    loop.write_box(0, OTHER)
    loop.submit(pictures[2])
    loop.submit(pictures[3])
    tracker = Tracker(runner, config=TrackerConfig(loop="public"))
    tracker.init(pictures[0], BOX)
    expected = [tracker.update(pictures[1])]
    tracker._target.box = OTHER
    expected += [tracker.update(picture) for picture in pictures[2:]]
    for result, one in zip(loop.results(wait=True), expected, strict=True):
        _same(result.targets[0], one)


def test_a_box_that_the_host_moves_goes_to_the_device(runner, monkeypatch):
    """As a lost target's state machine may move it: the next frame that is submitted is searched there."""
    pictures = models.frames(4)
    advance = Target.advance

    def moving(self, *arguments):
        result = advance(self, *arguments)
        if result.frame_index == 1:
            self.box = OTHER
        return result

    monkeypatch.setattr(Target, "advance", moving)
    loop = FrameLoop(runner, config=PUBLIC)
    loop.init(0, pictures[0], BOX)
    results = []
    for picture in pictures[1:]:
        loop.submit(picture)
        results += loop.results(wait=True)
    for result, expected in zip(results, _alone(runner, pictures, BOX), strict=True):
        _same(result.targets[0], expected)
    x, y, w, h = OTHER
    region = results[1].targets[0].search_region
    assert (region[0] + region[2] / 2, region[1] + region[3] / 2) == pytest.approx((x + w / 2, y + h / 2), abs=1e-3)


def test_tensors_are_taken_as_they_are(runner):
    pictures = models.frames(4)
    loop = FrameLoop(runner, config=PUBLIC)
    loop.init(0, pictures[0], BOX)
    for picture in pictures[1:]:
        loop.submit(torch.from_numpy(picture.copy()))
    for result, expected in zip(loop.results(wait=True), _alone(runner, pictures, BOX), strict=True):
        _same(result.targets[0], expected)


def test_a_tensor_lives_until_its_result_is_read(runner):
    """The caller's last reference may go at once: memory that is given back would be overwritten before the upload has read it."""
    pictures = models.frames(3)
    loop = FrameLoop(runner, config=PUBLIC)
    loop.init(0, pictures[0], BOX)
    frame = torch.from_numpy(pictures[1].copy())
    alive = weakref.ref(frame)
    loop.submit(frame)
    del frame
    assert alive() is not None
    loop.results(wait=True)
    assert alive() is None


def _follow(streams, pending=3):
    """Boxes of eleven frames, with a new target, a written box and a larger frame on the way; arrays are overwritten after each call."""
    loop = FrameLoop(models.runner(streams=streams, depth=2, elimination_layers=(1,)), targets=(2,), pending=pending)
    pictures = models.frames(12, 60, 80)
    loop.init(0, pictures[0], (30.0, 20.0, 20.0, 16.0))
    loop.init(1, pictures[0], (10.0, 20.0, 12.0, 20.0))
    results = []
    for index, picture in enumerate(pictures[1:], 1):
        frame = picture.copy()
        loop.submit(frame)
        frame[:] = 0
        if index == 4:
            loop.init(1, pictures[index], (40.0, 10.0, 20.0, 20.0))
        if index == 6:
            loop.write_box(0, (20.0, 25.0, 24.0, 16.0))
        results += loop.results()
    results += loop.results(wait=True)
    return [[result.targets[slot].box for slot in range(2)] for result in results]


@pytest.fixture(scope="module")
def in_order():
    return _follow(None)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: "+".join(policy) or "lazy")
@pytest.mark.parametrize("pending", [2, 20])
def test_no_order_of_events_changes_the_boxes(in_order, policy, pending):
    assert _follow(LateStreams(policy), pending) == in_order


@pytest.mark.parametrize(
    "ignored",
    [
        ("upload", "compute"),
        ("compute", "upload"),
        ("compute", "download"),
        ("download", "compute"),
        ("host", "upload"),
        ("host", "download"),
    ],
    ids=" for ".join,
)
def test_every_wait_is_needed(in_order, ignored):
    def wrong(policy):
        try:
            return _follow(LateStreams(policy, [ignored]), 20) != in_order
        except (AssertionError, ZeroDivisionError):  # a result was read before there was one
            return True

    assert any(wrong(policy) for policy in POLICIES)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda loop, picture: loop.submit(picture), StateError, "needs a target"),
        (lambda loop, picture: loop.init(2, picture, BOX), StateError, "no slot 2: slots are 0 to 1"),
        (lambda loop, picture: loop.remove(0), StateError, "no target is followed at slot 0"),
        (lambda loop, picture: loop.init(0, picture, (0, 0, -1, 5)), BoxError, "positive width"),
        (lambda loop, picture: loop.init(0, picture.astype(float), BOX), FrameError, "must be uint8"),
        (lambda loop, picture: (loop.init(0, picture, BOX), loop.submit(picture, picture)), FrameError, "expected 1 frames"),
        (lambda loop, picture: (loop.init(0, picture, BOX), loop.submit(picture[0, 0])), FrameError, r"must be \[H, W, 3\]"),
        (lambda loop, picture: (loop.init(0, picture, BOX), loop.write_box(0, (1, 2, float("nan"), 4))), BoxError, "must be finite"),
        (lambda loop, picture: (loop.init(0, picture, BOX), loop.write_box(0, "box")), BoxError, "four numbers"),
        (lambda loop, picture: loop.write_box(1, BOX), StateError, "no target is followed at slot 1"),
    ],
)
def test_bad_calls_say_what_is_wrong_and_leave_the_loop_usable(runner, call, error, message):
    loop, pictures = FrameLoop(runner, targets=(2,), config=PUBLIC), models.frames(2)
    with pytest.raises(error, match=message):
        call(loop, pictures[0])
    loop.init(0, pictures[0], BOX)
    loop.submit(pictures[1])
    _same(loop.results(wait=True)[-1].targets[0], _alone(runner, pictures, BOX)[0])


@pytest.mark.parametrize("arguments", [{"targets": ()}, {"targets": (1, 0)}, {"pending": 0}])
def test_bad_arguments_are_refused(runner, arguments):
    with pytest.raises(ConfigError):
        FrameLoop(runner, **arguments)


class Judged:
    """In place of `engine.tracking.confidence.AppearanceModel`: a confidence for each frame of each row, told apart by how often it was asked."""

    followed = (0.9, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.9, 0.1)
    beside = (0.9, 0.9, 0.9, 0.9, 0.2, 0.9, 0.95, 0.95, 0.95, 0.9)

    def __init__(self):
        self._count = {True: 0, False: 0}

    def learn(self, seen):
        pass

    def confidence(self, seen, centred=None):
        scores = self.followed if centred is None else self.beside
        self._count[centred is None] += 1
        return scores[(self._count[centred is None] - 1) % len(scores)]


LOSING = TrackerConfig(thresholds=StateThresholds(0.5, 0.3, 2, 0.6, 3, margin=0.2, switch_after=2))


@pytest.fixture
def _judged(monkeypatch):
    monkeypatch.setattr("engine.tracking.target.AppearanceModel", Judged)
    monkeypatch.setattr("engine.tracking.rival.MAX_RESIZE", 1e9)
    monkeypatch.setattr("engine.tracking.rival.SAME", 2.0)


@pytest.mark.usefixtures("_judged")
def test_lost_targets_that_are_searched_for_found_and_taken_back_equal_separate_trackers(runner):
    """Read frame by frame: with every loss, search, switch and taking back of `Tracker`."""
    pictures = models.frames(24)
    loop = FrameLoop(runner, targets=(2,), config=LOSING)
    trackers = [Tracker(runner, config=LOSING) for _ in range(2)]
    for slot, (tracker, box) in enumerate(zip(trackers, (BOX, OTHER), strict=True)):
        tracker.init(pictures[0], box)
        loop.init(slot, pictures[0], box)
    states = []
    for picture in pictures[1:]:
        loop.submit(picture)
        (result,) = loop.results(wait=True)
        for slot, tracker in enumerate(trackers):
            _same(result.targets[slot], tracker.update(picture))
        states.append(result.targets[0].state)
    assert "LOST" in states
    assert [tracker._target.switches for tracker in trackers] == [loop._followed[slot].target.switches for slot in range(2)]
    assert trackers[0]._target.switches >= 2


@pytest.mark.usefixtures("_judged")
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: "+".join(policy) or "lazy")
def test_a_loop_that_runs_ahead_reads_each_hypothesis_from_its_own_row(policy):
    """Three frames are under way when a switch is decided: until the rows have changed places on the device, they are read the other way."""
    runner = models.runner(streams=LateStreams(policy), depth=2, elimination_layers=(1,))
    loop = FrameLoop(runner, config=LOSING, pending=4)
    pictures = models.frames(26, 60, 80)
    loop.init(0, pictures[0], (30.0, 20.0, 20.0, 16.0))
    target = loop._followed[0].target
    before, boxes, switched, jumped = 0, [(30.0, 20.0, 20.0, 16.0)], [], []
    for picture in [*pictures[1:], *[None] * 3]:
        if picture is not None:
            loop.submit(picture)
        if len(loop._pending) == 4 or picture is None:
            loop._collect()
            result = loop._finished.popleft()
            # A hypothesis goes on from frame to frame, whichever row computed it: each region lies around the box before it.
            (x, y, w, h), (left, top, side, _) = boxes[-1], result.targets[0].search_region
            jumped.append(max(abs(left + side / 2 - x - w / 2), abs(top + side / 2 - y - h / 2)) > 1e-3)
            switched.append(target.switches != before)
            before = target.switches
            boxes.append(target.box)
    assert len(boxes) == len(pictures)
    assert sum(switched) >= 2
    assert any(jumped)
    assert all(switch for switch, jump in zip(switched, jumped, strict=True) if jump)
