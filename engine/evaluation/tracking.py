"""Tracks one sequence and keeps its result in a file, so that an interrupted evaluation goes on where it stopped."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from engine.datasets.sequences import Sequence
from engine.datasets.text import Floats
from engine.errors import DatasetError, EsatError, SinkError
from engine.files import PendingFile

_BEGINNING = '{"key": '  # of a NAME.json


@dataclasses.dataclass(frozen=True)
class Settings:
    """With what to track; small enough to be sent to every worker."""

    model: str  # a preset's name or a path, as in `Tracker`
    device: str = "auto"
    dtype: str = "auto"
    backend: str = "auto"
    loop: str = "default"  # as in `TrackerConfig`

    @property
    def name(self) -> str:
        """The model's name in tables."""
        from engine.weights.shipped import name_of

        return name_of(self.model)

    def key(self) -> str:
        """Names the results: they are only used again for the same weights, settings and version of this package."""
        from engine.weights.io import file_hash
        from engine.weights.shipped import find_weights

        weights = find_weights(self.model)
        try:
            package = version("esat-engine")
        except PackageNotFoundError:
            package = "source"
        text = json.dumps([file_hash(weights.path), self.device, self.dtype, self.backend, self.loop, package])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What tracking one sequence gave. The first box is the one that the tracker was given."""

    name: str
    boxes: Floats  # [N, 4]
    scores: list[float]  # [N], 1 for the first frame
    times_ms: list[float]  # [N], crop + network + decode; `init` for the first frame
    model: str
    device: str
    dtype: str
    loop: str

    @property
    def fps(self) -> float:
        """Frames per second of `update`, without reading and decoding images; NaN for a single frame."""
        spent = sum(self.times_ms[1:])
        return 1e3 * len(self.times_ms[1:]) / spent if spent > 0 else math.nan


def track(sequence: Sequence, tracker: Any, on_frame: Callable[[], None] = lambda: None) -> Outcome:
    """Follow the target through the sequence. EsatError for damaged frames and for boxes that no tracker can start from."""
    boxes: list[tuple[float, ...]] = []
    scores: list[float] = []
    times: list[float] = []
    for image in sequence.frames():
        start = time.perf_counter()
        if not boxes:
            tracker.init(image, tuple(sequence.boxes[0].tolist()))
            boxes.append(tuple(sequence.boxes[0].tolist()))
            scores.append(1.0)
        else:
            result = tracker.update(image)
            boxes.append(result.box)
            scores.append(result.score)
        times.append(1e3 * (time.perf_counter() - start))
        on_frame()
    if not boxes:
        raise DatasetError(f"{sequence.name}: no frames")
    runner, loop = tracker.runner, tracker.config.loop
    return Outcome(sequence.name, np.array(boxes), scores, times, runner.config.name, runner.device, runner.dtype, loop)


def make_tracker(settings: Settings) -> Any:
    """The tracker that the settings describe. ConfigError, WeightsError, DeviceError."""
    from engine.tracking.config import TrackerConfig
    from engine.tracking.tracker import Tracker

    return Tracker(settings.model, settings.device, settings.dtype, TrackerConfig(loop=settings.loop), settings.backend)


def try_track(sequence: Sequence, tracker: Any, on_frame: Callable[[], None] = lambda: None) -> Outcome | str:
    """`track`, or why it failed: one bad sequence must not end a run."""
    try:
        return track(sequence, tracker, on_frame)
    except (EsatError, ValueError, RuntimeError, OSError, MemoryError) as error:
        return f"{type(error).__name__}: {error}"


def track_and_save(sequence: Sequence, tracker: Any, folder: Path, key: str, on_frame: Callable[[], None]) -> Outcome | str:
    """`try_track`, and keep the outcome in `folder`."""
    outcome = try_track(sequence, tracker, on_frame)
    if isinstance(outcome, Outcome):
        save(outcome, folder, key, fingerprint(sequence))
    return outcome


def fingerprint(sequence: Sequence) -> str:
    """Changes when the sequence's frames or first box change."""
    sizes = [path.stat().st_size for path in (*sequence.images, *((sequence.video,) if sequence.video else ())) if path.exists()]
    text = json.dumps([sequence.name, sequence.boxes[0].tolist(), sequence.frame_count, sizes])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_folder(folder: Path, names: Iterable[str]) -> None:
    """SinkError if results of these sequences would replace ground truth, another tracker's boxes, or what else is not ours."""
    for name in names:
        there = [path for path in (folder / f"{name}.txt", folder / f"{name}.json") if os.path.exists(path)]
        if there and not _is_ours(folder / f"{name}.json"):
            raise SinkError(f"{there[0]} is no result of esat eval and would be replaced: keep results in another folder")


def _is_ours(path: Path) -> bool:
    """Whether a file begins as the NAME.json that `save` writes, damaged or not."""
    try:
        with open(path) as file:
            return file.read(len(_BEGINNING)) == _BEGINNING
    except (OSError, ValueError):
        return False


def save(outcome: Outcome, folder: Path, key: str, mark: str) -> None:
    """Write NAME_time.txt (seconds), NAME.json and NAME.txt (x,y,w,h a line), which appear in this order when all are complete: no NAME.txt is ever
    without the NAME.json that says whose it is. SinkError."""
    times = "".join(f"{milliseconds / 1e3:.8f}\n" for milliseconds in outcome.times_ms)
    text = "".join(",".join(f"{value:.4f}" for value in box) + "\n" for box in outcome.boxes)
    content = {"key": key, "fingerprint": mark, **dataclasses.asdict(outcome), "boxes": outcome.boxes.tolist()}
    with ExitStack() as last_first:
        for name, data in (
            (f"{outcome.name}.txt", text),
            (f"{outcome.name}.json", json.dumps(content)),
            (f"{outcome.name}_time.txt", times),
        ):
            pending = last_first.enter_context(PendingFile(folder / name))
            with open(pending.partial, "w") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())


def load(folder: Path, name: str, key: str, mark: str) -> Outcome | None:
    """A finished result, or None if there is no whole one of this model, these settings and these frames."""
    try:
        content = json.loads((folder / f"{name}.json").read_text())
        os.stat(folder / f"{name}.txt")
        if not isinstance(content, dict) or content.pop("key") != key or content.pop("fingerprint") != mark:
            return None
        outcome = Outcome(**{**content, "boxes": np.array(content["boxes"], np.float64)})
        columns = np.array([outcome.scores, outcome.times_ms], np.float64)
        outcome = dataclasses.replace(outcome, scores=columns[0].tolist(), times_ms=columns[1].tolist())
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return None
    shapes = outcome.boxes.shape == (columns.shape[-1], 4) and columns.shape[-1] > 0
    texts = outcome.name == name and all(isinstance(text, str) for text in (outcome.model, outcome.device, outcome.dtype, outcome.loop))
    return outcome if shapes and texts and np.isfinite(outcome.boxes).all() and np.isfinite(columns).all() else None
