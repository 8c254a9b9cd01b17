"""Tracks the sequences of a data set, one sequence a worker process at a time. A lost worker costs a retry, not the run."""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import os
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path
from typing import Any

from engine.errors import ConfigError, EsatError
from engine.evaluation import tracking
from engine.evaluation.sequences import Sequence
from engine.evaluation.tracking import Outcome, Settings

_POLL_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Failure:
    """A sequence without a result, and why."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Progress:
    """Called after every finished sequence and now and then in between."""

    frames: int  # tracked in this run so far
    finished: str | None = None  # the sequence that has just been finished
    reused: bool = False  # its result was there already


class _Worker:
    """What a worker process keeps from one sequence to the next."""

    tracker: Any = None
    settings: Settings
    folder: Path
    key: str
    frames: Any


def available_cpus() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    sequences: list[Sequence],
    settings: Settings,
    folder: Path,
    workers: int = 1,
    fresh: bool = False,
    ray: str | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> tuple[dict[str, Outcome], list[Failure]]:
    """Results by sequence name, and what failed. Finished results in `folder` are used again unless `fresh`.

    The cores are divided among the workers, so that together they use each core once. With `ray`, the address of a Ray cluster, its
    workers track instead (see `cluster`). ConfigError, WeightsError and DeviceError (the
    model cannot run at all) come before any tracking.
    """
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}")
    from engine.runners.device import resolve_device

    resolve_device(settings.device)
    key = settings.key()
    outcomes: dict[str, Outcome] = {}
    todo = []
    for sequence in sequences:
        known = None if fresh else tracking.load(folder, sequence.name, key, tracking.fingerprint(sequence))
        if known is None:
            todo.append(sequence)
        else:
            outcomes[sequence.name] = known
            on_progress(Progress(0, sequence.name, reused=True))
    failures: list[Failure] = []
    # Long sequences first, so that no worker is left alone with one at the end.
    todo.sort(key=lambda sequence: (-(sequence.frame_count or math.inf), sequence.name))
    if todo:
        if ray is not None:
            results = _on_ray(todo, settings, folder, key, ray, on_progress)
        else:
            track = _in_this_process if workers == 1 else _in_processes
            results = track(todo, settings, folder, key, min(workers, len(todo)), on_progress)
        for name, result in results:
            if isinstance(result, Outcome):
                outcomes[name] = result
            else:
                failures.append(Failure(name, result))
    order = {sequence.name: index for index, sequence in enumerate(sequences)}
    failures.sort(key=lambda failure: order[failure.name])
    return {name: outcomes[name] for name in order if name in outcomes}, failures


def _in_this_process(
    todo: list[Sequence], settings: Settings, folder: Path, key: str, workers: int, on_progress: Callable[[Progress], None]
) -> Iterator[tuple[str, Outcome | str]]:
    tracker = _make_tracker(settings)
    count = 0

    def on_frame() -> None:
        nonlocal count
        count += 1
        on_progress(Progress(count))

    for sequence in todo:
        result = _track_and_save(sequence, tracker, folder, key, on_frame)
        on_progress(Progress(count, sequence.name))
        yield sequence.name, result


def _in_processes(
    todo: list[Sequence], settings: Settings, folder: Path, key: str, workers: int, on_progress: Callable[[Progress], None]
) -> Iterator[tuple[str, Outcome | str]]:
    context = multiprocessing.get_context("spawn")  # forking a process that has run PyTorch's threads may hang
    frames = context.Value("q", 0)

    def open_pool(size: int) -> ProcessPoolExecutor:
        threads = max(1, available_cpus() // size)
        return ProcessPoolExecutor(size, context, initializer=_start_worker, initargs=(settings, folder, key, frames, threads))

    def report(name: str | None = None) -> None:
        on_progress(Progress(frames.value, name))

    while todo:
        suspects, todo = yield from _share_out(todo, open_pool(workers), workers, report)
        for sequence in suspects:  # each alone, so that it is known which of them kills its worker
            again, _ = yield from _share_out([sequence], open_pool(1), 1, report)
            if again:
                yield sequence.name, "its worker process died twice (out of memory?)"


def _share_out(
    todo: list[Sequence], pool: ProcessPoolExecutor, workers: int, report: Callable[[str | None], None]
) -> Generator[tuple[str, Outcome | str], None, tuple[list[Sequence], list[Sequence]]]:
    """Yield results until all are there or a worker dies; return the sequences that were being tracked then, and those not begun."""
    waiting: dict[Future[Outcome | str], Sequence] = {}
    rest = list(todo)
    suspects: list[Sequence] = []
    try:
        while (rest and not suspects) or waiting:
            while rest and not suspects and len(waiting) < workers:  # never more than run at once: what waits is what runs
                sequence = rest.pop(0)
                try:
                    waiting[pool.submit(_track_in_worker, sequence)] = sequence
                except BrokenProcessPool:
                    suspects.append(sequence)
            done, _ = wait(waiting, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            report(None)
            for future in done:
                sequence = waiting.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    suspects.append(sequence)
                    continue
                report(sequence.name)
                yield sequence.name, result
    finally:
        pool.shutdown(wait=not suspects, cancel_futures=True)
    return suspects, rest


def _on_ray(
    todo: list[Sequence], settings: Settings, folder: Path, key: str, address: str, on_progress: Callable[[Progress], None]
) -> Iterator[tuple[str, Outcome | str]]:
    from engine.evaluation.cluster import track_on_ray

    by_name = {sequence.name: sequence for sequence in todo}
    for name, result in track_on_ray(todo, settings, address, lambda frames, done: on_progress(Progress(frames, done))):
        if isinstance(result, Outcome):
            tracking.save(result, folder, key, tracking.fingerprint(by_name[name]))
        yield name, result


def track_with_one_thread(sequence: Sequence, settings: Settings) -> Outcome | str:
    """Track one sequence on one core; the model is loaded once for a process. The outcome, or why there is none."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if _Worker.tracker is None or _Worker.settings != settings:
        _Worker.settings, _Worker.tracker = settings, _make_tracker(settings)
    return _track(sequence, _Worker.tracker, lambda: None)


def _start_worker(settings: Settings, folder: Path, key: str, frames: Any, threads: int) -> None:
    import cv2
    import torch

    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    _Worker.settings, _Worker.folder, _Worker.key, _Worker.frames = settings, folder, key, frames


def _end_with_parent() -> None:
    """A worker whose parent was killed must not go on by itself."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _make_tracker(settings: Settings) -> Any:
    from engine.tracking.tracker import Tracker

    return Tracker(settings.model, settings.device, settings.dtype, backend=settings.backend)


def _track_in_worker(sequence: Sequence) -> Outcome | str:
    if _Worker.tracker is None:
        _Worker.tracker = _make_tracker(_Worker.settings)
    return _track_and_save(sequence, _Worker.tracker, _Worker.folder, _Worker.key, _count_frame)


def _count_frame() -> None:
    with _Worker.frames.get_lock():
        _Worker.frames.value += 1


def _track(sequence: Sequence, tracker: Any, on_frame: Callable[[], None]) -> Outcome | str:
    try:
        return tracking.track(sequence, tracker, on_frame)
    except (EsatError, ValueError, RuntimeError, OSError, MemoryError) as error:  # one bad sequence is a failure of its own
        return f"{type(error).__name__}: {error}"


def _track_and_save(sequence: Sequence, tracker: Any, folder: Path, key: str, on_frame: Callable[[], None]) -> Outcome | str:
    outcome = _track(sequence, tracker, on_frame)
    if isinstance(outcome, Outcome):
        tracking.save(outcome, folder, key, tracking.fingerprint(sequence))
    return outcome
