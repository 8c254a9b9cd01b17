"""The tracking loop: one box in, one box a frame out (public OSTrack's test-time loop)."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from engine.config import ModelConfig
from engine.errors import ConfigError, StateError
from engine.frames import Frame, check_frame, made_by
from engine.runners.choice import make_runner
from engine.runners.protocol import Runner, frames_on
from engine.tracking.config import TrackerConfig
from engine.tracking.target import Result, Target, check_seen, make_target
from engine.weights.io import Weights
from engine.weights.shipped import DEFAULT_MODEL, find_weights


def open_runner(model: str | Path | Weights | Runner, device: str, dtype: str, backend: str, search_factor: float | None = None) -> Runner:
    """The runner for a preset's name, a weights file, weights in memory; a runner itself is taken as it is.

    search_factor: another side of the search region than the model's own; the network's input keeps its size, so that a wider region is seen
    with less detail. ConfigError if it is no positive number up to 64, or if a runner has another one.
    """
    if isinstance(model, str | Path):
        model = find_weights(model)
    if not isinstance(model, Weights):
        if search_factor not in (None, model.config.search_factor):
            raise ConfigError(f"search_factor {search_factor:g} asked for, but the runner's is {model.config.search_factor:g}")
        return model
    if search_factor is not None:
        model = dataclasses.replace(model, config=model.config.replace(search_factor=search_factor))
    return make_runner(model, device, dtype, backend)


class Tracker:
    """Follows one target.

    model: a preset's name with shipped weights, a path to a .safetensors file, `Weights` in memory, or a `Runner` to share between trackers.
    device: "auto", "cpu", "cuda", "cuda:N". dtype: "auto", "fp32", "bf16", "fp16", "int8", "fp8". backend: attention backend, "auto" for the
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
        self.runner = open_runner(model, device, dtype, backend, self.config.search_factor)
        self._bgr = self.config.color == "bgr"
        self._target: Target | None = None

    @property
    def model_config(self) -> ModelConfig:
        """The network's configuration."""
        return self.runner.config

    def init(self, frame: Frame, box: Any, ready: Any = None) -> None:
        """Start to follow what `box` (x, y, w, h in pixels) holds in `frame` (uint8 [H, W, 3], array or tensor, or `Nv12`: see
        `engine.frames.check_frame`).

        A tensor on the runner's CUDA device stays there. The current stream makes it, or what `ready` says: a torch.cuda.Stream, or a
        torch.cuda.Event that was recorded behind it. When the call returns, the frame is no longer needed.
        A second call starts anew with another target. FrameError, BoxError.
        """
        self._target = make_target(self.runner, frame, box, self.config, ready)

    def update(self, frame: Frame, ready: Any = None) -> Result:
        """Find the target in the next frame, which may have another size than the one before. Frames and `ready` as for `init`.

        FrameError; StateError before `init`; WeightsError where the network gives no finite numbers.
        """
        start = time.perf_counter()
        if self._target is None:
            raise StateError("update() needs a target: call init(frame, box) first")
        devices = frames_on(self.runner)
        target, regions = self._target, self._target.regions
        with made_by(ready, next(iter(devices), None), frame):
            checked = check_frame(frame, *devices)
            observations = self.runner.observe(checked, regions, [target.template] * len(regions), self._bgr)
        check_seen(observations.targets, self.runner)
        timings = {**observations.timings_ms, "total": 1e3 * (time.perf_counter() - start)}
        return target.advance(observations.targets, regions, (checked.shape[1], checked.shape[0]), timings)

    initialize = init
    track = update
