"""Is the target still there? A state with hysteresis from the scores of single frames."""

from __future__ import annotations

import dataclasses
import enum
import math

from engine.errors import ConfigError


class TargetState(enum.StrEnum):
    """TRACKING: the score is high. UNCERTAIN: it is low, or was low a moment ago. LOST: it has stayed very low."""

    TRACKING = "TRACKING"
    UNCERTAIN = "UNCERTAIN"
    LOST = "LOST"


@dataclasses.dataclass(frozen=True)
class StateThresholds:
    """Raw scores (0 to 1) and frame counts at which the state changes."""

    confident: float = 0.35  # at or above: TRACKING
    lost: float = 0.15  # below, for `lost_after` frames in a row: LOST
    lost_after: int = 5
    found_after: int = 2  # confident frames in a row that end LOST

    def __post_init__(self) -> None:
        if not (0 <= self.lost <= self.confident <= 1) or not all(math.isfinite(v) for v in (self.lost, self.confident)):
            raise ConfigError(f"state thresholds must satisfy 0 <= lost <= confident <= 1, got {self.lost} and {self.confident}")
        if self.lost_after < 1 or self.found_after < 1:
            raise ConfigError(f"lost_after and found_after must be at least 1, got {self.lost_after} and {self.found_after}")


class StateMachine:
    """One target's state; starts as TRACKING."""

    def __init__(self, thresholds: StateThresholds):
        self._thresholds = thresholds
        self.state = TargetState.TRACKING
        self._low = 0
        self._high = 0

    def update(self, score: float) -> TargetState:
        """The state after a frame with this raw score."""
        limits = self._thresholds
        self._low = self._low + 1 if score < limits.lost else 0
        self._high = self._high + 1 if score >= limits.confident else 0
        if self._low >= limits.lost_after:
            self.state = TargetState.LOST
        elif self.state is TargetState.LOST:
            if self._high >= limits.found_after:
                self.state = TargetState.TRACKING
        else:
            self.state = TargetState.TRACKING if self._high else TargetState.UNCERTAIN
        return self.state
