"""Is the target still there? A state with hysteresis from the confidences of single frames."""

from __future__ import annotations

import collections
import dataclasses
import enum
import math

from engine.errors import ConfigError


class TargetState(enum.StrEnum):
    """TRACKING: the confidence is high. UNCERTAIN: it is low. LOST: it has been low for a while, and the target has not been found again."""

    TRACKING = "TRACKING"
    UNCERTAIN = "UNCERTAIN"
    LOST = "LOST"


@dataclasses.dataclass(frozen=True)
class StateThresholds:
    """Confidences (0 to 1, `engine.tracking.confidence`) and frame counts at which the state changes.

    The defaults were calibrated for the shipped weights by `python -m benchmarks.loss`; other weights need their own.
    """

    confident: float = 0.72  # at or above: TRACKING
    lost: float = 0.58  # mean of `lost_after` frames in a row below: LOST
    lost_after: int = 5
    found: float = 0.77  # at or above, in each of `found_after` frames in a row: no longer LOST
    found_after: int = 3

    def __post_init__(self) -> None:
        levels = (self.lost, self.confident, self.found)
        if not (all(map(math.isfinite, levels)) and 0 <= self.lost <= self.confident <= self.found <= 1):
            raise ConfigError(
                f"state thresholds must satisfy 0 <= lost <= confident <= found <= 1, got {', '.join(f'{v:g}' for v in levels)}"
            )
        if self.lost_after < 1 or self.found_after < 1:
            raise ConfigError(f"lost_after and found_after must be at least 1, got {self.lost_after} and {self.found_after}")


NEVER_LOST = StateThresholds(lost=0.0)  # the public code's loop, whatever the confidences


class StateMachine:
    """One target's state; starts as TRACKING."""

    def __init__(self, thresholds: StateThresholds):
        self._thresholds = thresholds
        self.state = TargetState.TRACKING
        self._recent: collections.deque[float] = collections.deque(maxlen=thresholds.lost_after)  # confidences since the target was found
        self._high = 0  # frames in a row that may end the loss

    @property
    def falling(self) -> bool:
        """Whether the last frame alone scored low enough for a loss: its box is not to be trusted."""
        return bool(self._recent) and self._recent[-1] < self._thresholds.lost

    @property
    def promising(self) -> bool:
        """Whether the last frame of a lost target may have shown it again."""
        return self.state is TargetState.LOST and self._high > 0

    def update(self, confidence: float) -> TargetState:
        """The state after a frame with this confidence."""
        limits = self._thresholds
        if self.state is TargetState.LOST:
            self._high = self._high + 1 if confidence >= limits.found else 0
            if self._high >= limits.found_after:
                self.state = TargetState.TRACKING
                self._recent.clear()
                self._recent.append(confidence)
            return self.state
        self._recent.append(confidence)
        if len(self._recent) == limits.lost_after and math.fsum(self._recent) < limits.lost * limits.lost_after:
            self.state, self._high = TargetState.LOST, 0
        else:
            self.state = TargetState.TRACKING if confidence >= limits.confident else TargetState.UNCERTAIN
        return self.state
