"""The tracking loop: one box in, one box a frame out (public OSTrack's test-time loop)."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np

from engine import postprocess
from engine.config import ModelConfig
from engine.errors import ConfigError, StateError
from engine.preprocess import Box, check_box, check_frame
from engine.runner import Runner, make_runner
from engine.state import StateMachine, StateThresholds, TargetState
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


@dataclasses.dataclass(frozen=True)
class Result:
    """What one frame gave."""

    box: Box  # x, y, w, h in pixels of the frame, floats
    score: float  # raw score of the chosen cell, 0 to 1
    weighted_score: float  # the same times the Hann window
    state: TargetState
    frame_index: int  # 0 is the frame of `init`
    timings_ms: dict[str, float]  # "crop", "network", "decode", "total"


class Tracker:
    """Follows one target.

    model: a preset's name with shipped weights, a path to a .safetensors file, `Weights` in memory, or a `Runner` to share between trackers.
    device: "auto", "cpu", "cuda", "cuda:N". dtype: "auto", "fp32", "bf16", "fp16". backend: attention backend, "auto" for the fastest.
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
        if isinstance(model, str | Path):
            model = find_weights(model)
        self.runner: Runner = make_runner(model, device, dtype, backend) if isinstance(model, Weights) else model
        self._bgr = self.config.color == "bgr"
        self._template: Any = None
        self._box: Box | None = None
        self._frame_index = 0
        self._machine = StateMachine(self.config.thresholds)

    @property
    def model_config(self) -> ModelConfig:
        """The network's configuration."""
        return self.runner.config

    def init(self, frame: np.ndarray, box: Any) -> None:
        """Start to follow what `box` (x, y, w, h in pixels) holds in `frame` (uint8 [H, W, 3]; grey and 4-channel frames are converted).

        A second call starts anew with another target. FrameError, BoxError.
        """
        frame = check_frame(frame)
        checked = check_box(box, frame.shape[1], frame.shape[0])
        self._template = self.runner.encode_template(frame, checked, self._bgr)
        self._box = checked
        self._frame_index = 0
        self._machine = StateMachine(self.config.thresholds)

    def update(self, frame: np.ndarray) -> Result:
        """Find the target in the next frame, which may have another size than the one before. FrameError; StateError before `init`."""
        start = time.perf_counter()
        if self._box is None:
            raise StateError("update() needs a target: call init(frame, box) first")
        frame = check_frame(frame)
        observations = self.runner.observe(frame, [self._box], [self._template], self._bgr)
        seen = observations.targets[0]
        box = postprocess.to_frame(seen.box, seen.region_side, self._box)
        self._box = postprocess.clip(box, frame.shape[1], frame.shape[0])
        self._frame_index += 1
        state = self._machine.update(seen.score)
        timings = {**observations.timings_ms, "total": 1e3 * (time.perf_counter() - start)}
        return Result(self._box, seen.score, seen.weighted_score, state, self._frame_index, timings)

    initialize = init
    track = update
