"""What is looked at beside the hypothesis that is followed: places to search, a candidate, or the hypothesis that was left for it."""

from __future__ import annotations

import math

from engine.boxes import Box, overlap
from engine.tracking.search import LostSearch
from engine.tracking.state import StateThresholds

MAX_RESIZE = 2.0  # a lost target comes back at most this many times larger or smaller (side of its box)
SAME = 0.3  # IoU from which a candidate is the followed hypothesis itself
PROBATION = 30  # frames for which the hypothesis that was left goes on being followed


class Rival:
    """The second region of a target that is searched for, or that has just been found elsewhere.

    A search visits a place a frame (`engine.tracking.search`). What it finds with enough confidence becomes a candidate and is followed;
    the first frame that says otherwise ends that. A candidate that `switch_after` frames in a row put ahead of the followed hypothesis by
    `margin` takes its place; the two change roles, and the same rule takes the switch back within PROBATION frames.

    last: the box where the target was last seen; region_over_size: side of a search region over the square root of its box's area.
    """

    def __init__(self, thresholds: StateThresholds, last: Box, region_over_size: float):
        self._limits, self._last, self._region_over_size = thresholds, last, region_over_size
        self._search: LostSearch | None = None
        self._step = 0
        self._leads: list[float] = []  # of the candidate over the followed hypothesis, frames in a row
        self._candidate: Box | None = None  # what is followed beside
        self._probation: int | None = None  # frames since the switch

    @property
    def on_probation(self) -> bool:
        """Whether a switch may still be taken back."""
        return self._probation is not None

    @property
    def expired(self) -> bool:
        return self._probation is not None and self._probation >= PROBATION

    def centred(self, searched: Box) -> bool:
        """Whether a region lies around what is followed beside: the Hann-weighted score counts there."""
        return searched == self._candidate

    def judge(self, found: Box, searched: Box, confidence: float, followed: Box, followed_confidence: float) -> bool:
        """Take what was seen around `searched`; whether it is to be followed from now on instead. All boxes in the frame."""
        limits = self._limits
        if self._probation is not None:
            self._probation += 1
        sure = confidence >= limits.found and overlap(found, followed) < SAME and self._resembles_last(found)
        if not self.centred(searched):
            self._leads = []
        self._leads = [*self._leads, confidence - followed_confidence] if sure else []
        self._candidate = found if sure or self._probation is not None else None
        recent = self._leads[-limits.switch_after :]
        if len(recent) < limits.switch_after or math.fsum(recent) < limits.margin * limits.switch_after:
            return False
        self._leads, self._candidate = [], followed
        self._probation = None if self._probation is not None else 0  # what was taken back is not taken again
        return True

    def next(self, frame_width: int, frame_height: int) -> Box:
        """x, y, w, h to look around in the next frame."""
        if self._candidate is not None:
            return self._candidate
        if self._search is None or self._search.frame_size != (frame_width, frame_height):
            side = self._region_over_size * math.sqrt(self._last[2] * self._last[3])
            self._search, self._step = LostSearch(self._last, side, frame_width, frame_height), 0
        self._step += 1
        return self._search.box(self._step - 1)

    def _resembles_last(self, found: Box) -> bool:
        """Whether a candidate's size is one that the lost target may have."""
        ratio = math.sqrt(found[2] * found[3] / (self._last[2] * self._last[3]))
        return 1 / MAX_RESIZE <= ratio <= MAX_RESIZE
