"""One target's state between frames: its template, its box, how sure we are."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import postprocess
from engine.preprocess import Box, check_box
from engine.runner import Observation, Runner
from engine.state import StateMachine, StateThresholds, TargetState


@dataclasses.dataclass(frozen=True)
class Result:
    """What one frame gave for one target."""

    box: Box  # x, y, w, h in pixels of the frame, floats
    score: float  # raw score of the chosen cell, 0 to 1
    weighted_score: float  # the same times the Hann window
    state: TargetState
    frame_index: int  # frames since the target's first one, which is 0
    timings_ms: dict[str, float]  # "crop", "network", "decode", "total", of all targets together
    search_region: Box  # x, y, w, h of the square in the frame that was searched
    kept_tokens: NDArray[np.int64] | None  # what candidate elimination left of the search grid (positions, row by row), if the engine tells


class Target:
    """What is followed from its first frame on. The frame has been checked by the caller."""

    def __init__(self, runner: Runner, frame: NDArray[np.uint8], box: Any, bgr: bool, thresholds: StateThresholds):
        self.box = check_box(box, frame.shape[1], frame.shape[0])
        self.template = runner.encode_template(frame, self.box, bgr)
        self._machine = StateMachine(thresholds)
        self._frame_index = 0

    def advance(self, seen: Observation, frame: NDArray[np.uint8], timings_ms: dict[str, float]) -> Result:
        """Take the observation as the target's new state (public OSTrack: the clipped box is where the next search is centred)."""
        side, (x, y, w, h) = seen.region_side, self.box
        region = (x + 0.5 * (w - side), y + 0.5 * (h - side), side, side)
        box = postprocess.to_frame(seen.box, side, self.box)
        self.box = postprocess.clip(box, frame.shape[1], frame.shape[0])
        self._frame_index += 1
        state = self._machine.update(seen.score)
        return Result(self.box, seen.score, seen.weighted_score, state, self._frame_index, timings_ms, region, seen.kept_tokens)
