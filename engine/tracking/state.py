"""Is the target still there? A state with hysteresis from the confidences of single frames."""

from __future__ import annotations

import collections
import dataclasses
import enum
import math

from engine.errors import ConfigError


class TargetState(enum.StrEnum):
    """TRACKING: the confidence is high. UNCERTAIN: it is low. LOST: it has been low for a while, nothing speaks for the target in this frame,
    and it has not been found again."""

    TRACKING = "TRACKING"
    UNCERTAIN = "UNCERTAIN"
    LOST = "LOST"


@dataclasses.dataclass(frozen=True)
class StateThresholds:
    """Confidences (0 to 1, `engine.tracking.confidence`) and frame counts at which the state changes.

    The defaults were calibrated by `python -m benchmarks.loss` and fit the shipped weights (docs/loss-and-return.md); others need their own.
    """

    confident: float = 0.7  # at or above: TRACKING
    lost: float = 0.4  # mean of `lost_after` frames in a row below: the target is searched for
    lost_after: int = 5
    found: float = (
        0.7  # mean of `found_after` frames in a row at or above: no longer searched for; also what each frame of a candidate needs
    )
    found_after: int = 5
    margin: float = 0.2  # mean lead over the followed hypothesis with which a candidate takes its place
    switch_after: int = 4  # frames in a row that this takes
    gone: float = 0.3  # of the frames of a search, LOST begins with one below, and ends with one at or above `lost`

    def __post_init__(self) -> None:
        levels = (self.lost, self.confident, self.found)
        if not (all(map(math.isfinite, levels)) and 0 <= self.lost <= self.confident <= self.found <= 1):
            raise ConfigError(
                f"state thresholds must satisfy 0 <= lost <= confident <= found <= 1, got {', '.join(f'{v:g}' for v in levels)}"
            )
        for name in ("margin", "gone"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be between 0 and 1, got {getattr(self, name):g}")
        for name in ("lost_after", "found_after", "switch_after"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")


class StateMachine:
    """One target's state; starts as TRACKING. `may_lose` False: it is never LOST, as the public code knows no such thing.

    searching: whether the target is looked for elsewhere. That begins early and lasts until the target is found, since it costs a region and
    no box. LOST is said in fewer frames: a target that changes its look has a low confidence for a while, but seldom none.
    """

    def __init__(self, thresholds: StateThresholds, may_lose: bool = True):
        self._thresholds, self._may_lose = thresholds, may_lose
        self.state = TargetState.TRACKING
        self.searching = False
        self._recent: collections.deque[float] = collections.deque(maxlen=max(thresholds.lost_after, thresholds.found_after))

    @property
    def falling(self) -> bool:
        """Whether the last frame alone scored low enough for a loss: its box is not to be trusted."""
        return bool(self._recent) and self._recent[-1] < self._thresholds.lost

    def update(self, confidence: float) -> TargetState:
        """The state after a frame with this confidence."""
        limits = self._thresholds
        self._recent.append(confidence)
        if self.searching and self._mean(limits.found_after, 0.0) >= limits.found:
            self.found(confidence)
            return self.state
        if not self.searching and self._may_lose and self._mean(limits.lost_after, 1.0) < limits.lost:
            self.searching = True
            self._recent.clear()
        if self.searching:
            lost = confidence < limits.lost and (confidence < limits.gone or self.state is TargetState.LOST)
            self.state = TargetState.LOST if lost else TargetState.UNCERTAIN
        else:
            self.state = TargetState.TRACKING if confidence >= limits.confident else TargetState.UNCERTAIN
        return self.state

    def _mean(self, count: int, otherwise: float) -> float:
        """Of the last `count` confidences, since a search began or ended; `otherwise` if there are fewer."""
        recent = list(self._recent)[-count:]
        return round(math.fsum(recent) / count, 12) if len(recent) == count else otherwise  # 12 digits: three times 0.1 are 0.1

    def found(self, confidence: float) -> None:
        """The target is there again, with this confidence, as another frame's judgement has it."""
        self.state, self.searching = TargetState.TRACKING, False
        self._recent.clear()
        self._recent.append(confidence)
