"""The tracking loop: one box in, one box a frame out (public OSTrack's test-time loop)."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np

from engine.config import ModelConfig
from engine.errors import ConfigError, StateError
from engine.frames import check_frame
from engine.runners.choice import make_runner
from engine.runners.protocol import Runner
from engine.tracking.state import StateThresholds
from engine.tracking.target import Result, Target
from engine.weights.io import Weights
from engine.weights.shipped import DEFAULT_MODEL, find_weights


@dataclasses.dataclass(frozen=True)
class TrackerConfig:
    """How a tracker behaves; what it computes with is the model's `ModelConfig`."""

    color: str = "bgr"  # channel order of the frames, "bgr" as OpenCV gives them or "rgb"
    thresholds: StateThresholds = dataclasses.field(default_factory=StateThresholds)

    def __post_init__(self) -> None:
        if self.color not in ("bgr", "rgb"):
            raise ConfigError(f"color must be 'bgr' or 'rgb', got {self.color!r}")


def open_runner(model: str | Path | Weights | Runner, device: str, dtype: str, backend: str) -> Runner:
    """The runner for a preset's name, a weights file, weights in memory; a runner itself is taken as it is."""
    if isinstance(model, str | Path):
        model = find_weights(model)
    return make_runner(model, device, dtype, backend) if isinstance(model, Weights) else model


class Tracker:
    """Follows one target.

    model: a preset's name with shipped weights, a path to a .safetensors file, `Weights` in memory, or a `Runner` to share between trackers.
    device: "auto", "cpu", "cuda", "cuda:N". dtype: "auto", "fp32", "bf16", "fp16", "int8". backend: attention backend, "auto" for the
    fastest.
    Errors are subclasses of `EsatError`; after an error the tracker is as it was before the call. One tracker serves one thread at a time.
    """

    def __init__(
        self,
        model: str | Path | Weights | Runner = DEFAULT_MODEL,
        device: str = "auto",
        dtype: str = "auto",
        config: TrackerConfig | None = None,
        backend: str = "auto",
    ):
        self.config = config or TrackerConfig()
        self.runner = open_runner(model, device, dtype, backend)
        self._bgr = self.config.color == "bgr"
        self._target: Target | None = None

    @property
    def model_config(self) -> ModelConfig:
        """The network's configuration."""
        return self.runner.config

    def init(self, frame: np.ndarray, box: Any) -> None:
        """Start to follow what `box` (x, y, w, h in pixels) holds in `frame` (uint8 [H, W, 3]; grey and 4-channel frames are converted).

        A second call starts anew with another target. FrameError, BoxError.
        """
        self._target = Target(self.runner, check_frame(frame), box, self._bgr, self.config.thresholds)

    def update(self, frame: np.ndarray) -> Result:
        """Find the target in the next frame, which may have another size than the one before. FrameError; StateError before `init`."""
        start = time.perf_counter()
        if self._target is None:
            raise StateError("update() needs a target: call init(frame, box) first")
        frame = check_frame(frame)
        searched = self._target.search_box
        observations = self.runner.observe(frame, [searched], [self._target.template], self._bgr)
        timings = {**observations.timings_ms, "total": 1e3 * (time.perf_counter() - start)}
        return self._target.advance(observations.targets[0], searched, (frame.shape[1], frame.shape[0]), timings)

    initialize = init
    track = update
