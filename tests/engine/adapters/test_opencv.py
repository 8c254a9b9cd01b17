"""The OpenCV adapter in a loop that OpenCV's own tracker runs through as well."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from engine import TargetState, Tracker
from engine.adapters.opencv import OpenCVTracker
from engine.errors import FrameError, StateError
from tests.engine.evaluation import trees

BOXES = trees.moving_boxes(4)


def follow(tracker) -> list[tuple[bool, tuple[int, ...]]]:
    first, *others = (trees.picture(box) for box in BOXES)
    assert tracker.init(first, tuple(int(value) for value in BOXES[0])) is None
    return [tracker.update(frame) for frame in others]


def test_same_loop_as_opencv(tmp_path):
    weights = trees.tiny_weights(tmp_path / "tiny.safetensors")
    ours = OpenCVTracker.create(weights, device="cpu", dtype="fp32")
    found = follow(ours)
    assert 0 <= ours.getTrackingScore() <= 1
    plain = Tracker(weights, device="cpu", dtype="fp32")
    plain.init(trees.picture(BOXES[0]), BOXES[0])
    expected = [plain.update(trees.picture(box)).box for box in BOXES[1:]]
    assert [box for _, box in found] == [tuple(round(value) for value in box) for box in expected]
    if hasattr(cv2, "TrackerMIL"):
        kinds = [
            [(type(ok), [type(value) for value in box]) for ok, box in results] for results in (found, follow(cv2.TrackerMIL.create()))
        ]
        assert kinds[0] == kinds[1]


def test_errors_are_not_a_lost_target(tmp_path):
    tracker = OpenCVTracker(trees.tiny_weights(tmp_path / "tiny.safetensors"))
    with pytest.raises(StateError):
        tracker.update(trees.picture(BOXES[0]))
    tracker.init(trees.picture(BOXES[0]), BOXES[0])
    with pytest.raises(FrameError):
        tracker.update(np.zeros((4, 4, 2), np.uint8))


def test_a_lost_target_is_not_ok(tmp_path, monkeypatch):
    real = Tracker.update
    monkeypatch.setattr(Tracker, "update", lambda self, frame: dataclasses.replace(real(self, frame), state=TargetState.LOST))
    tracker = OpenCVTracker(trees.tiny_weights(tmp_path / "tiny.safetensors"))
    tracker.init(trees.picture(BOXES[0]), BOXES[0])
    assert tracker.update(trees.picture(BOXES[1]))[0] is False
