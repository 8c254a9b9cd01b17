"""How a tracker behaves; what it computes with is the model's `ModelConfig`."""

from __future__ import annotations

import dataclasses

from engine.errors import ConfigError
from engine.tracking.state import StateThresholds

LOOPS = ("default", "public")


@dataclasses.dataclass(frozen=True)
class TrackerConfig:
    """ConfigError for values that are not among the ones named.

    loop: "default" notices when a target is lost and looks for it elsewhere; "public" is the public code's loop, which does neither and
    reports no box with a side below 10 pixels. `thresholds` are of the default loop; in the public one they tell TRACKING from UNCERTAIN.
    """

    color: str = "bgr"  # channel order of the frames, "bgr" as OpenCV gives them or "rgb"
    loop: str = "default"
    thresholds: StateThresholds = dataclasses.field(default_factory=StateThresholds)
    search_factor: float | None = None  # side of the search region over sqrt(w h) of the box; None: as the model was trained

    def __post_init__(self) -> None:
        if self.color not in ("bgr", "rgb"):
            raise ConfigError(f"color must be 'bgr' or 'rgb', got {self.color!r}")
        if self.loop not in LOOPS:
            raise ConfigError(f"loop must be {' or '.join(map(repr, LOOPS))}, got {self.loop!r}")
