"""A tracker for the got10k toolkit's experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import ConfigError
from engine.runners.protocol import Runner
from engine.tracking.config import TrackerConfig
from engine.tracking.tracker import Tracker
from engine.weights import DEFAULT_MODEL
from engine.weights.io import Weights


def got10k_tracker(
    name: str = "ESAT",
    model: str | Path | Weights | Runner = DEFAULT_MODEL,
    device: str = "auto",
    dtype: str = "auto",
    backend: str = "auto",
) -> Any:
    """A `got10k.trackers.Tracker` for `ExperimentGOT10k` and the others; it gets RGB images from the toolkit.

    name: under which the toolkit files results. The other arguments are those of `engine.Tracker`.
    ConfigError if the package got10k is missing.
    """
    try:
        from got10k.trackers import Tracker as ToolkitTracker
    except ImportError as error:
        raise ConfigError(f"the got10k adapter needs the got10k toolkit: pip install got10k six ({error})") from error

    class Got10kTracker(ToolkitTracker):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(name=name, is_deterministic=True)
            self._tracker = Tracker(model, device, dtype, TrackerConfig(color="rgb"), backend)

        def init(self, image: Any, box: Any) -> None:
            self._tracker.init(np.asarray(image), tuple(float(value) for value in box))

        def update(self, image: Any) -> np.ndarray:
            return np.array(self._tracker.update(np.asarray(image)).box)

    return Got10kTracker()
