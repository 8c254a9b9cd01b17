"""One target's state between frames: its template, its box, how sure we are, and where to look next."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.boxes import Box, check_box, clip
from engine.runners.protocol import Observation, Runner
from engine.tracking.confidence import Usual
from engine.tracking.search import LostSearch
from engine.tracking.state import StateMachine, StateThresholds, TargetState

MAX_RESIZE = 2.0  # a lost target comes back at most this many times larger or smaller (side of its box)


@dataclasses.dataclass(frozen=True)
class Result:
    """What one frame gave for one target."""

    box: Box  # x, y, w, h in pixels of the frame, floats; while LOST where the target was last seen
    score: float  # raw score of the chosen cell, 0 to 1; while LOST of the best candidate in the region that was searched
    weighted_score: float  # the same times the Hann window
    state: TargetState
    frame_index: int  # frames since the target's first one, which is 0
    timings_ms: dict[str, float]  # "crop", "network", "decode", "total", of all targets together
    search_region: Box  # x, y, w, h of the square in the frame that was searched
    kept_tokens: NDArray[np.int64] | None  # what candidate elimination left of the search grid (positions, row by row), if the engine tells
    confidence: float  # 0 to 1 that this is the target (engine.tracking.confidence); `state` follows from it


class Target:
    """What is followed from its first frame on. The frame has been checked by the caller.

    Until the target is lost this is the public code's loop: the clipped box is where the next search is centred. Then `box` stays where
    the target was last seen, and `search_box` goes its own way until a candidate has been confirmed.
    """

    def __init__(self, runner: Runner, frame: NDArray[np.uint8], box: Any, bgr: bool, thresholds: StateThresholds):
        self.box = check_box(box, frame.shape[1], frame.shape[0])
        self.search_box = self.box
        self.template = runner.encode_template(frame, self.box, bgr)
        self._machine = StateMachine(thresholds)
        self._usual = Usual()
        self._frame_index = 0
        self._last_seen = self.box  # before the scores fell
        self._search: LostSearch | None = None
        self._step = 0

    def advance(self, seen: Observation, searched: Box, frame_size: tuple[int, int], timings_ms: dict[str, float]) -> Result:
        """Take what was seen in the region around `searched`, in a frame of this width and height, as the target's new state."""
        width, height = frame_size
        side, (x, y, w, h) = seen.region_side, searched
        region = (x + 0.5 * (w - side), y + 0.5 * (h - side), side, side)
        found = seen.box
        self._frame_index += 1
        was_lost = self._machine.state is TargetState.LOST
        confidence = self._usual.confidence(seen, centred=not was_lost) if not was_lost or self._resembles_last_seen(found) else 0.0
        state = self._machine.update(confidence)
        if state is TargetState.TRACKING:
            self._usual.learn(seen)
        if state is TargetState.LOST:
            self.box = clip(self._last_seen, width, height)
            self.search_box = found if self._machine.promising else self._next_search(side / math.sqrt(w * h), width, height)
        else:
            self.box = self.search_box = found
            self._search = None
            if not self._machine.falling:
                self._last_seen = found
        return Result(self.box, seen.score, seen.weighted_score, state, self._frame_index, timings_ms, region, seen.kept_tokens, confidence)

    def _next_search(self, region_over_size: float, width: int, height: int) -> Box:
        if self._search is None or self._search.frame_size != (width, height):
            side = region_over_size * math.sqrt(self.box[2] * self.box[3])
            self._search, self._step = LostSearch(self.box, side, width, height), 0
        self._step += 1
        return self._search.box(self._step - 1)

    def _resembles_last_seen(self, found: Box) -> bool:
        """Whether a candidate's size is one that the lost target may have."""
        ratio = math.sqrt(found[2] * found[3] / (self._last_seen[2] * self._last_seen[3]))
        return 1 / MAX_RESIZE <= ratio <= MAX_RESIZE
