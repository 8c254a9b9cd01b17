"""Trackers as functions of a clip: the product's own, and those of other packages, to label clips and to compare with."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import DatasetError, EsatError

Follow = Callable[[Iterable[np.ndarray], np.ndarray], Iterable[np.ndarray]]
"""Frames and the first one's box -> a box x, y, w, h for each frame, the first one's too, one after the other as they are asked for."""

HARNESS_CLASS = "NanoTrack"


def product(weights: str | Path, dtype: str = "auto", device: str = "cpu") -> Follow:
    """The product's tracker by the public loop; `weights`: a preset's name or a .safetensors file. ConfigError, WeightsError, DeviceError."""
    from engine.tracking.config import TrackerConfig
    from engine.tracking.tracker import Tracker

    config = TrackerConfig(loop="public")
    runner = Tracker(weights, device, dtype, config).runner

    def follow(frames: Iterable[np.ndarray], box: np.ndarray) -> Iterator[np.ndarray]:
        tracker = Tracker(runner, config=config)  # its own: clips may be followed by turns
        return _follow(frames, box, tracker.init, lambda frame: tracker.update(frame).box)

    return follow


def harness(path: Path, name: str = HARNESS_CLASS) -> Follow:
    """The class `name` of a Python file, with the interface `Class(image, box)` and `update(image) -> box`. The file's code is run.

    DatasetError if the file cannot be loaded, or has no such class."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise DatasetError(f"cannot load a tracker from {path}: expected a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise DatasetError(f"cannot load a tracker from {path}: {type(error).__name__}: {error}") from error
    tracker_class = getattr(module, name, None)
    if tracker_class is None:
        raise DatasetError(f"{path}: expected a class {name} with update(image), found none")

    def follow(frames: Iterable[np.ndarray], box: np.ndarray) -> Iterator[np.ndarray]:
        trackers: list[Any] = []
        boxes = _follow(
            frames, box, lambda frame, start: trackers.append(tracker_class(frame, start)), lambda frame: trackers[0].update(frame)
        )
        try:
            yield from boxes
        except EsatError:  # of the frames
            raise
        except Exception as error:
            raise DatasetError(f"the tracker {path} failed: {type(error).__name__}: {error}") from error

    return follow


def _follow(
    frames: Iterable[np.ndarray], box: np.ndarray, init: Callable[[np.ndarray, Any], object], update: Callable[[np.ndarray], Any]
) -> Iterator[np.ndarray]:
    for number, frame in enumerate(frames):
        if number == 0:
            init(frame, tuple(map(float, box)))
            yield np.array(box, float)
        else:
            yield np.array(update(frame), float)  # a copy: trackers may give the same list again and again
