"""Several targets in one video: one batched forward a frame, targets added and removed at any time."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

from engine.config import ModelConfig
from engine.errors import StateError
from engine.frames import Frame, check_frame, made_by
from engine.runners.protocol import Observation, Runner, frames_on
from engine.tracking.config import TrackerConfig
from engine.tracking.target import Result, Target, check_seen, make_target
from engine.tracking.tracker import open_runner
from engine.weights.io import Weights
from engine.weights.shipped import DEFAULT_MODEL


class MultiTracker:
    """Follows any number of targets, each with its own template, box and state. Arguments and errors as `Tracker`.

    max_batch bounds the regions of one forward (memory); more run in several. A target has one, and a second one while it is searched for.
    """

    def __init__(
        self,
        model: str | Path | Weights | Runner = DEFAULT_MODEL,
        device: str = "auto",
        dtype: str = "auto",
        config: TrackerConfig | None = None,
        backend: str = "auto",
        max_batch: int = 32,
    ):
        self.config = config or TrackerConfig()
        self.runner = open_runner(model, device, dtype, backend, self.config.search_factor)
        self._bgr = self.config.color == "bgr"
        self._max_batch = max(1, max_batch)
        self._targets: dict[int, Target] = {}
        self._next_id = 0

    @property
    def model_config(self) -> ModelConfig:
        """The network's configuration."""
        return self.runner.config

    @property
    def target_ids(self) -> list[int]:
        """The targets that are followed, in the order in which they were added."""
        return list(self._targets)

    def add(self, frame: Frame, box: Any, ready: Any = None) -> int:
        """Follow what `box` (x, y, w, h) holds in `frame`, from the next frame on. Returns the target's id, never used twice.

        Frames and `ready` as for `Tracker.init`.
        """
        target = make_target(self.runner, frame, box, self.config, ready)
        target_id, self._next_id = self._next_id, self._next_id + 1
        self._targets[target_id] = target
        return target_id

    def restart(self, target_id: int, frame: Frame, box: Any, ready: Any = None) -> None:
        """Correct a target: follow what `box` holds in `frame` under the id that it has. StateError if it is not followed."""
        self._check_followed(target_id)
        self._targets[target_id] = make_target(self.runner, frame, box, self.config, ready)

    def remove(self, target_id: int) -> None:
        """Stop following a target. StateError if it is not followed."""
        self._check_followed(target_id)
        del self._targets[target_id]

    def _check_followed(self, target_id: int) -> None:
        if target_id not in self._targets:
            raise StateError(f"there is no target {target_id!r}: targets are {self.target_ids}")

    def update(self, frame: Frame, ready: Any = None) -> dict[int, Result]:
        """Find every target in the next frame: id -> result, in the order of `target_ids`; empty without targets.

        Errors as `Tracker.update`; then no target has changed.
        """
        start = time.perf_counter()
        devices = frames_on(self.runner)
        regions = {target_id: target.regions for target_id, target in self._targets.items()}
        boxes = [box for own in regions.values() for box in own]
        templates = [target.template for target_id, target in self._targets.items() for _ in regions[target_id]]
        found: list[Observation] = []
        timings: dict[str, float] = {}
        with made_by(ready, next(iter(devices), None), frame):
            checked = check_frame(frame, *devices)
            for first in range(0, len(boxes), self._max_batch):
                part = slice(first, first + self._max_batch)
                observations = self.runner.observe(checked, boxes[part], templates[part], self._bgr)
                found += observations.targets
                for stage, milliseconds in observations.timings_ms.items():
                    timings[stage] = timings.get(stage, 0.0) + milliseconds
        check_seen(found, self.runner)
        timings["total"] = 1e3 * (time.perf_counter() - start)
        seen, size = iter(found), (checked.shape[1], checked.shape[0])
        return {
            target_id: target.advance(list(itertools.islice(seen, len(regions[target_id]))), regions[target_id], size, timings)
            for target_id, target in self._targets.items()
        }
