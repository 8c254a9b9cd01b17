"""Whatever a program passes in: a result inside the frame, or an EsatError after which the tracker goes on."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from engine import EsatError, MultiTracker, StateThresholds, Tracker
from engine.boxes import check_box
from engine.tracking.target import LEAST_SIDE
from engine.video.draw import draw
from engine.video.sinks import Record

BOX = (50.0, 40.0, 30.0, 24.0)
FRAME = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
FEW = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])

numbers = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(2**70), 2**70) | st.floats(-200, 200)
boxes = (
    st.tuples(numbers, numbers, numbers, numbers) | st.lists(numbers, max_size=6) | st.text(max_size=12) | st.none() | st.binary(max_size=8)
)
near = st.tuples(st.floats(-60, 200), st.floats(-60, 160), st.floats(1e-3, 300), st.floats(1e-3, 300))
shapes = st.lists(st.integers(0, 40), max_size=4).map(tuple)
dtypes = st.sampled_from(["uint8", "int8", "uint16", "float32", "float64", "bool", "complex64", "U2", "O"])


@pytest.fixture(scope="module")
def tracker(tiny_weights):
    return Tracker(tiny_weights, device="cpu", dtype="fp32")


def _sane(result, width, height):
    x, y, w, h = result.box
    assert all(math.isfinite(value) for value in result.box)
    assert -1e-3 <= x <= max(0, width - LEAST_SIDE) + 1e-3
    assert -1e-3 <= y <= max(0, height - LEAST_SIDE) + 1e-3
    assert 0 < w <= width + 1e-3
    assert 0 < h <= height + 1e-3
    assert 0 <= result.score <= 1


@FEW
@given(boxes)
def test_any_box(tracker, box):
    try:
        tracker.init(FRAME, box)
    except EsatError:
        tracker.init(FRAME, BOX)
    _sane(tracker.update(FRAME), 160, 120)


@settings(FEW, max_examples=60)
@given(near)
def test_boxes_near_the_frame(tracker, box):
    try:
        expected = check_box(box, 160, 120)
    except EsatError:
        return
    assert expected == box
    tracker.init(FRAME, box)
    _sane(tracker.update(FRAME), 160, 120)


@FEW
@given(shapes, dtypes, st.booleans())
def test_any_frame(tracker, shape, dtype, reverse):
    frame = np.zeros(shape, dtype)
    frame = frame[::-1] if reverse and frame.ndim else frame
    tracker.init(FRAME, BOX)
    before = tracker.update(FRAME).box
    try:
        result = tracker.update(frame)
    except EsatError:
        tracker.init(FRAME, BOX)
        assert tracker.update(FRAME).box == before
    else:
        _sane(result, frame.shape[1], frame.shape[0])


@settings(FEW, max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=5), st.integers(0, 99))
def test_a_stream_that_changes_its_size(tracker, sizes, seed):
    tracker.init(FRAME, BOX)
    for width, height in sizes:
        frame = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        _sane(tracker.update(frame), width, height)


@settings(FEW, max_examples=25)
@given(st.lists(st.one_of(near, st.integers(0, 8)), min_size=1, max_size=12))
def test_targets_come_and_go_in_any_order(tracker, steps):
    """A box is a target to add, a number one to remove; every frame has a result for exactly those that are there."""
    several, there, seen = MultiTracker(tracker.runner, max_batch=3), [], set()
    for step in steps:
        if isinstance(step, int):
            if step in there:
                several.remove(step)
                there.remove(step)
            else:
                with pytest.raises(EsatError, match="there is no target"):
                    several.remove(step)
            continue
        try:
            target = several.add(FRAME, step)
        except EsatError:
            continue
        assert target not in seen
        seen.add(target)
        there.append(target)
    assert several.target_ids == there
    results = several.update(FRAME)
    assert list(results) == there
    for result in results.values():
        _sane(result, 160, 120)


@settings(FEW, max_examples=100)
@given(
    arrays.arrays(np.uint8, st.tuples(st.integers(1, 60), st.integers(1, 60), st.just(3))),
    st.tuples(numbers, numbers, numbers, numbers),
    st.booleans(),
)
def test_any_finite_box_can_be_drawn(image, box, several):
    if all(math.isfinite(value) for value in box):
        assert draw(image, [Record(0, tuple(map(float, box)), 0.5, "LOST", 1.0)], several=several).shape == image.shape


@settings(FEW, max_examples=200)
@given(numbers, numbers, st.integers(-5, 50), st.integers(-5, 50))
def test_any_thresholds(confident, lost, lost_after, found_after):
    try:
        thresholds = StateThresholds(confident, lost, lost_after, found_after)
    except EsatError:
        return
    assert 0 <= thresholds.lost <= thresholds.confident <= 1
