"""One target's state between frames: its template, its box, how sure we are, and where to look next."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.boxes import Box, check_box, clip, in_region
from engine.errors import WeightsError
from engine.frames import Frame, check_frame, made_by
from engine.runners.protocol import Observation, Runner, frames_on
from engine.tracking.confidence import AppearanceModel
from engine.tracking.config import TrackerConfig
from engine.tracking.rival import Rival
from engine.tracking.state import StateMachine, TargetState
from esat_kernels.crop.geometry import region_around

LEAST_SIDE = 2  # pixels: of a box that the default loop reports; the loop itself searches around boxes of the public code's 10 and more


@dataclasses.dataclass(frozen=True)
class Result:
    """What one frame gave for one target."""

    box: Box  # x, y, w, h in pixels of the frame, floats: of the followed hypothesis, while LOST too
    score: float  # raw score of the chosen cell, 0 to 1
    weighted_score: float  # the same times the Hann window
    state: TargetState
    frame_index: int  # frames since the target's first one, which is 0
    timings_ms: dict[str, float]  # "crop", "network", "decode", "total", of all targets together
    search_region: Box  # x, y, w, h of the square in the frame in which `box` was found
    kept_tokens: NDArray[np.int64] | None  # what candidate elimination left of the search grid (positions, row by row), if the engine tells
    confidence: float  # 0 to 1 that this is the target (engine.tracking.confidence); `state` follows from it


class Target:
    """What is followed from its first frame on. The frame has been checked by the caller.

    `box` follows the public code's loop: the clipped box is where the next search is centred, whatever the state. While the target is searched
    for, a second region is looked at beside it (`engine.tracking.rival`), and only what is found there can move `box` elsewhere.
    """

    def __init__(self, runner: Runner, frame: Frame, box: Any, config: TrackerConfig):
        self.box = check_box(box, frame.shape[1], frame.shape[0])
        self.beside: Box | None = None
        self.switches = 0  # how often `box` and `beside` have changed places
        self.template = runner.encode_template(frame, self.box, config.color == "bgr")
        self.template_box = in_region(self.box, region_around(self.box, runner.config.template_factor))
        self._thresholds, self._public = config.thresholds, config.loop == "public"
        self._machine = StateMachine(config.thresholds, may_lose=not self._public)
        self._appearance = AppearanceModel()
        self._frame_index = 0
        self._last_seen = self.box  # before the scores fell
        self._rival: Rival | None = None

    @property
    def regions(self) -> list[Box]:
        """The boxes to search around in the next frame: the followed one, and while the target is searched for one beside it."""
        return [self.box] if self.beside is None else [self.box, self.beside]

    def advance(
        self, seen: Sequence[Observation], searched: Sequence[Box], frame_size: tuple[int, int], timings_ms: dict[str, float]
    ) -> Result:
        """Take what was seen in the regions around `searched`, in a frame of this width and height, as the target's new state."""
        followed, side = seen[0], seen[0].region_side
        self._frame_index += 1
        confidence = self._appearance.confidence(followed)
        self._machine.update(confidence)
        if self._machine.searching and (self._rival is None or self._rival.expired):
            self._rival = Rival(self._thresholds, self._last_seen, side / math.sqrt(searched[0][2] * searched[0][3]))
        elif self._rival is not None and (self._rival.expired or not (self._machine.searching or self._rival.on_probation)):
            self._rival = None
        chosen, around, self.box = followed, searched[0], followed.box
        if self._rival is not None:
            if len(seen) > 1 and self._leads(self._rival, seen[1], searched[1], confidence):
                chosen, around = seen[1], searched[1]
                confidence = self._appearance.confidence(chosen)
                self._machine.found(confidence)
                self.switches += 1
            self.box = chosen.box
        if self._machine.state is TargetState.TRACKING and self._rival is None:
            self._appearance.learn(followed)
        if not (self._machine.searching or self._machine.falling):
            self._last_seen = self.box
        self.beside = None if self._rival is None else self._rival.next(*frame_size)
        box = chosen.box if self._public else clip(chosen.unclipped, *frame_size, margin=LEAST_SIDE)
        x, y, w, h = around
        side = chosen.region_side
        return Result(
            box=box,
            score=chosen.score,
            weighted_score=chosen.weighted_score,
            state=self._machine.state,
            frame_index=self._frame_index,
            timings_ms=timings_ms,
            search_region=(x + 0.5 * (w - side), y + 0.5 * (h - side), side, side),
            kept_tokens=chosen.kept_tokens,
            confidence=confidence,
        )

    def _leads(self, rival: Rival, seen: Observation, searched: Box, followed_confidence: float) -> bool:
        """Whether what was seen beside is to be followed from now on."""
        confidence = self._appearance.confidence(seen, centred=rival.centred(searched))
        return rival.judge(seen.box, searched, confidence, self.box, followed_confidence)


def check_seen(seen: Sequence[Observation], runner: Runner) -> None:
    """WeightsError unless what the network gave are finite numbers: there is no place to search around NaN."""
    for one in seen:
        if not all(map(math.isfinite, (*one.unclipped, one.score, one.weighted_score))):
            box = ",".join(f"{value:g}" for value in one.unclipped)
            raise WeightsError(
                f"{runner.config.name} must give finite numbers, got the box {box} with a score of {one.score:g} in {runner.dtype}"
                + (": its values may go beyond what fp16 holds, use fp32 or bf16" if runner.dtype == "fp16" else "")
            )


def make_target(runner: Runner, frame: Any, box: Any, config: TrackerConfig, ready: Any = None) -> Target:
    """A target from a frame as a user passes it in (`Tracker.init`). FrameError, BoxError."""
    devices = frames_on(runner)
    with made_by(ready, next(iter(devices), None), frame):
        return Target(runner, check_frame(frame, *devices), box, config)
