"""Tracks clips and keeps what the thresholds are chosen from: confidences, states, and the overlap with the truth, frame by frame."""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from benchmarks.loss.disturb import KINDS, Clip, disturb, plain
from engine.datasets.sequences import Sequence
from engine.datasets.text import Floats
from engine.evaluation.metrics import iou
from engine.tracking.state import StateThresholds
from engine.tracking.tracker import Tracker, TrackerConfig


@dataclasses.dataclass(frozen=True)
class Job:
    """A clip to make and to track; small enough to be sent to a worker."""

    sequence: Sequence
    kind: str = "plain"
    donor: Sequence | None = None
    seed: int = 0
    frames: int | None = None  # of a plain clip

    def clip(self) -> Clip:
        return plain(self.sequence, self.frames) if self.donor is None else disturb(self.sequence, self.donor, self.kind, self.seed)


@dataclasses.dataclass(frozen=True)
class Track:
    """What tracking one clip gave, without its first frame."""

    name: str
    kind: str
    gone: int  # frames without the target are gone .. back - 1; both 0 in plain clips
    back: int
    confidence: list[float]
    score: list[float]
    state: list[str]
    overlap: list[float]  # IoU of the box with the truth
    visible: list[float]
    boxes: list[tuple[float, float, float, float]]


def jobs(sequences: list[Sequence], donors: list[Sequence], seeds: int, frames: int | None = None) -> list[Job]:
    """Each sequence as it is and, for each seed, with every kind of disturbance; the donors take turns."""
    found = [Job(sequence, frames=frames) for sequence in sequences]
    for seed in range(seeds):
        for number, sequence in enumerate(sequences):
            others = [donor for donor in donors if donor.name != sequence.name]
            found += [Job(sequence, kind, others[(number + seed) % len(others)], seed) for kind in KINDS]
    return found


def follow(clip: Clip, tracker: Tracker) -> Track:
    """Track the clip from the truth's first box."""
    start: tuple[float, ...] = tuple(clip.boxes[0].tolist())
    tracker.init(clip.frames[0], start)
    results = [tracker.update(frame) for frame in clip.frames[1:]]
    gone, back = (0, 0) if clip.kind == "plain" else (clip.gone - 1, clip.back - 1)
    boxes: Floats = np.array([result.box for result in results])
    return Track(
        clip.name,
        clip.kind,
        gone,
        back,
        [result.confidence for result in results],
        [result.score for result in results],
        [str(result.state) for result in results],
        iou(boxes, clip.boxes[1:]).tolist(),
        clip.visible[1:].tolist(),
        [result.box for result in results],
    )


class _Worker:
    tracker: Tracker


def record(todo: list[Job], model: str, thresholds: StateThresholds, workers: int, on_done: Callable[[], None]) -> list[Track]:
    """Track all clips in `workers` processes of one thread each; in the order of `todo`."""

    def results() -> Iterator[Track]:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(model, thresholds)) as pool:
            for track in pool.map(_run, todo):
                on_done()
                yield track

    return list(results())


def _start(model: str, thresholds: StateThresholds) -> None:
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _Worker.tracker = Tracker(model, config=TrackerConfig(thresholds=thresholds))


def _run(job: Job) -> Track:
    return follow(job.clip(), _Worker.tracker)
