"""Several targets: each gives what a tracker of its own would give, whatever the others do."""

import numpy as np
import pytest

from engine import MultiTracker, Tracker
from engine.errors import BoxError, FrameError, StateError

BOXES = [(50.0, 40.0, 30.0, 24.0), (10.0, 10.0, 60.0, 60.0), (100.0, 60.0, 20.0, 40.0)]


@pytest.fixture(scope="module")
def runner(tiny_weights):
    return Tracker(tiny_weights, device="cpu", dtype="fp32").runner


def _frame(seed):
    return np.random.default_rng(seed).integers(0, 256, (120, 160, 3), np.uint8)


@pytest.mark.parametrize("max_batch", [1, 2, 32])
def test_targets_equal_separate_trackers(runner, max_batch):
    several = MultiTracker(runner, max_batch=max_batch)
    ids = [several.add(_frame(0), box) for box in BOXES]
    alone = [Tracker(runner) for _ in BOXES]
    for tracker, box in zip(alone, BOXES, strict=True):
        tracker.init(_frame(0), box)
    for index in range(1, 4):
        results = several.update(_frame(index))
        assert list(results) == ids
        for target_id, tracker in zip(ids, alone, strict=True):
            expected = tracker.update(_frame(index))
            assert results[target_id].box == pytest.approx(expected.box, abs=0.01)
            assert results[target_id].state == expected.state
            assert results[target_id].frame_index == expected.frame_index == index


def test_targets_come_and_go(runner):
    several = MultiTracker(runner)
    assert several.update(_frame(0)) == {}
    first = several.add(_frame(0), BOXES[0])
    several.update(_frame(1))
    second = several.add(_frame(1), BOXES[1])
    results = several.update(_frame(2))
    assert {target_id: result.frame_index for target_id, result in results.items()} == {first: 2, second: 1}
    several.remove(first)
    assert list(several.update(_frame(3))) == [second]
    assert several.add(_frame(3), BOXES[2]) not in (first, second)
    with pytest.raises(StateError, match=rf"there is no target {first}: targets are \[1, 2\]"):
        several.remove(first)


def test_errors_change_nothing(runner):
    several = MultiTracker(runner)
    several.add(_frame(0), BOXES[0])
    with pytest.raises(BoxError):
        several.add(_frame(0), (500, 500, 10, 10))
    with pytest.raises(FrameError):
        several.update(_frame(1).astype(float))
    assert several.target_ids == [0]
    assert several.update(_frame(1))[0].frame_index == 1
