"""The calls of `cv2.Tracker`, for programs that were written for OpenCV's trackers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.tracking.state import TargetState
from engine.tracking.tracker import Tracker


class OpenCVTracker:
    """`init(image, boundingBox)` and `update(image) -> (ok, (x, y, w, h))`, with BGR images and whole pixels as in OpenCV.

    ok is False while the target counts as lost. The arguments are those of `engine.Tracker`, whose errors are raised where OpenCV would
    return False or fail: a damaged frame should not look like a lost target.
    """

    def __init__(self, *arguments: Any, **named: Any):
        self._tracker = Tracker(*arguments, **named)
        self._score = 0.0

    @classmethod
    def create(cls, *arguments: Any, **named: Any) -> OpenCVTracker:
        """OpenCV's way to construct."""
        return cls(*arguments, **named)

    def init(self, image: NDArray[np.uint8], boundingBox: Any) -> None:  # noqa: N803  OpenCV's name
        """Start to follow what the box x, y, w, h holds."""
        self._tracker.init(image, boundingBox)
        self._score = 1.0

    def update(self, image: NDArray[np.uint8]) -> tuple[bool, tuple[int, int, int, int]]:
        """Whether the target is there, and its box, rounded."""
        result = self._tracker.update(image)
        self._score = result.score
        x, y, w, h = (round(value) for value in result.box)
        return result.state is not TargetState.LOST, (x, y, w, h)

    def getTrackingScore(self) -> float:  # noqa: N802  OpenCV's name
        """The score of the last frame, 0 to 1."""
        return self._score
