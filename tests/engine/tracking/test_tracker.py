"""The tracking loop: the public code's boxes, every kind of frame, and errors that leave the tracker usable."""

import math

import numpy as np
import pytest

from engine import EsatError, Tracker, TrackerConfig
from engine.errors import BoxError, ConfigError, DeviceError, FrameError, StateError
from engine.tracking.target import LEAST_SIDE

BOX = (50.0, 40.0, 30.0, 24.0)


@pytest.fixture(scope="module")
def tracker(tiny_weights):
    return Tracker(tiny_weights, device="cpu", dtype="fp32")


def _frame(seed=0, height=120, width=160):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_boxes_are_floats_inside_the_frame(tracker):
    tracker.init(_frame(), BOX)
    for index in range(1, 5):
        result = tracker.update(_frame(index))
        x, y, w, h = result.box
        assert all(isinstance(value, float) for value in result.box)
        assert -1e-6 <= x <= 158
        assert -1e-6 <= y <= 118
        assert LEAST_SIDE <= w <= 160.001
        assert LEAST_SIDE <= h <= 120.001
        assert result.frame_index == index
        assert 0 < result.score < 1
        assert 0 < result.weighted_score <= result.score
        assert result.search_region[2] == result.search_region[3] > 0
        assert result.kept_tokens.shape == (89,)
        assert set(result.timings_ms) == {"crop", "network", "decode", "total"}
        assert result.timings_ms["total"] >= result.timings_ms["network"] > 0


def test_equal_runs_give_equal_boxes(tracker):
    runs = []
    for _ in range(2):
        tracker.initialize(_frame(), BOX)
        runs.append([tracker.track(_frame(index)).box for index in (1, 2, 3)])
    assert runs[0] == runs[1]


def test_rgb_frames_give_the_same_boxes(tracker, tiny_weights):
    rgb = Tracker(tiny_weights, device="cpu", dtype="fp32", config=TrackerConfig(color="rgb"))
    tracker.init(_frame(), BOX)
    rgb.init(_frame()[:, :, ::-1], BOX)
    assert tracker.update(_frame(1)).box == rgb.update(_frame(1)[:, :, ::-1]).box


def test_grey_and_four_channel_frames(tracker):
    grey = _frame()[:, :, 0]
    boxes = []
    for first in (grey, grey[:, :, None], np.repeat(grey[:, :, None], 3, 2), np.dstack([grey, grey, grey, np.zeros_like(grey)])):
        tracker.init(first, BOX)
        boxes.append(tracker.update(first).box)
    assert boxes[0] == boxes[1] == boxes[2] == boxes[3]


def test_a_frame_of_another_size_goes_on(tracker):
    tracker.init(_frame(), BOX)
    tracker.update(_frame(1))
    x, y, w, h = tracker.update(_frame(2, 60, 70)).box
    assert x + w <= 70.001
    assert y + h <= 60.001
    assert tracker.update(_frame(3, 300, 400)).frame_index == 3


def test_bfloat16_stays_near_float32(tiny_weights, tracker):
    low = Tracker(tiny_weights, device="cpu", dtype="bf16")
    tracker.init(_frame(), BOX)
    low.init(_frame(), BOX)
    assert low.update(_frame()).score == pytest.approx(tracker.update(_frame()).score, abs=0.05)


def test_trackers_share_a_runner_without_sharing_a_target(tracker):
    one, two = Tracker(tracker.runner), Tracker(tracker.runner)
    one.init(_frame(), BOX)
    alone = [one.update(_frame(index)).box for index in (1, 2)]
    one.init(_frame(), BOX)
    two.init(_frame(), (10, 10, 60, 60))
    together = []
    for index in (1, 2):
        together.append(one.update(_frame(index)).box)
        two.update(_frame(index))
    assert together == alone


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (_frame().astype(np.uint16), "must be uint8 with values 0 to 255, got uint16"),
        (_frame() / 255.0, "must be uint8 with values 0 to 255, got float64"),
        (np.zeros((0, 10, 3), np.uint8), r"got \(0, 10, 3\)"),
        (np.zeros((10, 10, 2), np.uint8), r"got \(10, 10, 2\)"),
        (np.zeros((1, 10, 10, 3), np.uint8), r"got \(1, 10, 10, 3\)"),
        (None, "got NoneType"),
        ("frame.png", "got str"),
    ],
)
def test_wrong_frames_are_named_and_leave_the_tracker_usable(tracker, frame, message):
    with pytest.raises(FrameError, match=message):
        tracker.init(frame, BOX)
    tracker.init(_frame(), BOX)
    before = tracker.update(_frame(1)).box
    with pytest.raises(FrameError, match=message):
        tracker.update(frame)
    tracker.init(_frame(), BOX)
    assert tracker.update(_frame(1)).box == before


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((200, 10, 20, 20), "lies outside the frame of 160 x 120 pixels"),
        ((-30, 10, 20, 20), "lies outside the frame"),
        ((10, 10, 0, 5), "positive width and height, got 0 x 5"),
        ((10, 10, 5, -1), "positive width and height"),
        ((0, 0, 1e-200, 1e-200), "an area that a float holds, got 1e-200 x 1e-200"),
        ((10**400, 10, 5, 5), "four finite numbers x, y, w, h, got an integer that no float holds"),
        ((10, 10, math.nan, 5), "four finite numbers"),
        ((10, 10, math.inf, 5), "four finite numbers"),
        ((10, 10, 5), "four finite numbers"),
        ((-4000, -4000, 9000, 9000), "more than twice the frame"),
        ("10,10", "must be four numbers"),
        (None, "must be four numbers"),
    ],
)
def test_wrong_boxes_are_named(tracker, box, message):
    with pytest.raises(BoxError, match=message):
        tracker.init(_frame(), box)


def test_update_before_init_says_what_to_do(tiny_weights):
    with pytest.raises(StateError, match=r"call init\(frame, box\) first"):
        Tracker(tiny_weights, device="cpu").update(_frame())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"device": "tpu"}, DeviceError, "device must be auto, cpu, cuda or cuda:N, got 'tpu'"),
        ({"device": "cpu:1"}, DeviceError, "device must be auto, cpu, cuda or cuda:N, got 'cpu:1'"),
        ({"device": "cuda:\N{SUPERSCRIPT TWO}"}, DeviceError, "device must be auto, cpu, cuda or cuda:N"),
        ({"device": "cuda:99"}, DeviceError, "sees [0-9]+ CUDA devices"),
        ({"dtype": "int3"}, ConfigError, "dtype must be auto, fp32, bf16, fp16, int8, fp8, got 'int3'"),
        ({"backend": "abacus"}, DeviceError, "there is no such backend"),
    ],
)
def test_what_is_not_there_is_named(tiny_weights, arguments, error, message):
    with pytest.raises(error, match=message) as caught:
        Tracker(tiny_weights, **arguments)
    assert isinstance(caught.value, EsatError)


def test_an_unknown_loop_is_named():
    with pytest.raises(ConfigError, match="loop must be 'default' or 'public', got 'fast'"):
        TrackerConfig(loop="fast")
