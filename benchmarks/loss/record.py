"""Tracks clips with both loops, and remembers what the network saw: what has been seen once is not computed again."""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loss.clips import Job
from benchmarks.loss.disturb import Clip
from engine.boxes import Box
from engine.datasets.text import Floats
from engine.evaluation.metrics import iou
from engine.runners.protocol import Observation, Observations, Runner
from engine.tracking.config import TrackerConfig
from engine.tracking.tracker import Tracker
from engine.workers import use_threads

FIELDS = ("index", "searched", "box", "unclipped", "region_side", "score", "weighted_score", "features")


@dataclasses.dataclass(frozen=True)
class Track:
    """What both loops gave for a clip, without its first frame."""

    name: str
    fold: str
    kind: str
    gone: int  # frames without the target are gone .. back - 1; both 0 in plain clips
    back: int
    size: float  # square root of the first box's area, pixels
    visible: list[float]
    public: Floats  # IoU of the public loop's box with the truth; 0 without a truth
    default: Floats  # the same of the default loop
    known: list[bool]  # frames with a truth
    state: list[str]  # of the default loop
    switches: int
    seen: list[Observation]  # by the public loop


class Remembering:
    """A runner that answers from what it has seen before, and asks another one only for the rest. One target's clip at a time."""

    def __init__(self, runner: Runner):
        self.config, self.device, self.dtype = runner.config, runner.device, runner.dtype
        self._runner = runner
        self.index = 0
        self.seen: dict[tuple[int, Box], Observation] = {}

    def encode_template(self, *arguments: Any) -> Any:
        return self._runner.encode_template(*arguments)

    def observe(self, frame: Any, boxes: Sequence[Box], templates: Sequence[Any], bgr: bool) -> Observations:
        for box, template in zip(boxes, templates, strict=True):
            if (self.index, box) not in self.seen:
                (seen,) = self._runner.observe(frame, [box], [template], bgr).targets
                self.seen[self.index, box] = seen._replace(kept_tokens=None)
        return Observations([self.seen[self.index, box] for box in boxes], {})

    def load(self, path: Path) -> None:
        self.seen = {}
        if path.is_file():
            with np.load(path) as content:
                columns = [content[name] for name in FIELDS]
            for index, searched, box, unclipped, side, score, weighted, features in zip(*columns, strict=True):
                seen = Observation(
                    tuple(box.tolist()), tuple(unclipped.tolist()), float(side), float(score), float(weighted), None, features
                )
                self.seen[int(index), tuple(searched.tolist())] = seen

    def save(self, path: Path) -> None:
        rows = [(index, box, *(getattr(seen, name) for name in FIELDS[2:])) for (index, box), seen in self.seen.items()]
        partial = path.with_name(f"{path.stem}.part.npz")
        np.savez(partial, **{name: np.array([row[column] for row in rows]) for column, name in enumerate(FIELDS)})
        partial.rename(path)


def follow(clip: Clip, runner: Remembering, loop: str) -> tuple[list[Box], list[str], int, list[Observation]]:
    """Boxes, states, number of switches, and what was seen around what was followed."""
    tracker = Tracker(runner, config=TrackerConfig(loop=loop))
    tracker.init(clip.frames[0], tuple(clip.boxes[0].tolist()))
    target = tracker._target
    assert target is not None
    boxes, states, seen = [], [], []
    for runner.index, frame in enumerate(clip.frames[1:], 1):
        searched = target.box
        result = tracker.update(frame)
        boxes.append(result.box)
        states.append(str(result.state))
        seen.append(runner.seen[runner.index, searched])
    return boxes, states, target.switches, seen


def track(job: Job, runner: Remembering, records: Path) -> Track:
    clip = job.clip()
    runner.load(records / f"{job.name}.npz")
    known = len(runner.seen)
    public, _, _, seen = follow(clip, runner, "public")
    default, states, switches, _ = follow(clip, runner, "default")
    if len(runner.seen) > known:
        runner.save(records / f"{job.name}.npz")
    truth = clip.boxes[1:]
    there = np.isfinite(truth).all(axis=1)
    overlaps = [np.where(there, iou(np.array(boxes), np.nan_to_num(truth)), 0.0) for boxes in (public, default)]
    gone, back = (0, 0) if clip.kind == "plain" else (clip.gone - 1, clip.back - 1)
    size = float(np.sqrt(clip.boxes[0, 2] * clip.boxes[0, 3]))
    return Track(
        *(job.name, job.fold, clip.kind, gone, back, size, clip.visible[1:].tolist()),
        *(overlaps[0], overlaps[1], there.tolist(), states, switches, seen),
    )


class _Worker:
    runner: Remembering


def record(todo: list[Job], model: str, dtype: str, records: Path, workers: int, on_done: Callable[[], None]) -> list[Track]:
    """Track all clips in `workers` processes of one thread each; in the order of `todo`."""
    records.mkdir(parents=True, exist_ok=True)

    def results() -> Iterator[Track]:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(model, dtype)) as pool:
            for found in pool.map(_run, todo, [records] * len(todo)):
                on_done()
                yield found

    return list(results())


def _start(model: str, dtype: str) -> None:
    use_threads()
    _Worker.runner = Remembering(Tracker(model, device="cpu", dtype=dtype).runner)


def _run(job: Job, records: Path) -> Track:
    return track(job, _Worker.runner, records)
