"""Tracks sequences in worker processes of this machine, one sequence a worker at a time. A lost worker costs a retry, not the run."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path
from typing import Any

from engine.datasets.sequences import Sequence
from engine.evaluation.tracking import Outcome, Settings, make_tracker, track_and_save

_POLL_SECONDS = 0.2


class _Worker:
    """What a worker process keeps from one sequence to the next."""

    tracker: Any = None
    settings: Settings
    folder: Path
    key: str
    frames: Any


def track_in_processes(
    todo: list[Sequence], settings: Settings, folder: Path, key: str, workers: int, report: Callable[[int], None]
) -> Iterator[tuple[str, Outcome | str]]:
    """Yield (name, result or reason) as sequences end, kept in `folder`. report(frames tracked so far)."""
    from engine.workers import threads_for_each

    context = multiprocessing.get_context("spawn")  # forking a process that has run PyTorch's threads may hang
    frames = context.Value("q", 0)

    def open_pool(size: int) -> ProcessPoolExecutor:
        threads = threads_for_each(size)
        return ProcessPoolExecutor(size, context, initializer=_start_worker, initargs=(settings, folder, key, frames, threads))

    def tell() -> None:
        report(frames.value)

    while todo:
        suspects, todo = yield from _share_out(todo, open_pool(workers), workers, tell)
        for sequence in suspects:  # each alone, so that it is known which of them kills its worker
            for _ in range(2):  # the first death may have been another's: a worker that dies takes those beside it along
                again, _ = yield from _share_out([sequence], open_pool(1), 1, tell)
                if not again:
                    break
            else:
                yield sequence.name, "its worker process died twice (out of memory?)"


def _share_out(
    todo: list[Sequence], pool: ProcessPoolExecutor, workers: int, tell: Callable[[], None]
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
            tell()
            for future in done:
                sequence = waiting.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    suspects.append(sequence)
                    continue
                tell()
                yield sequence.name, result
    finally:
        pool.shutdown(wait=not suspects, cancel_futures=True)
    return suspects, rest


def _start_worker(settings: Settings, folder: Path, key: str, frames: Any, threads: int) -> None:
    from engine.workers import use_threads

    threading.Thread(target=_end_with_parent, daemon=True).start()
    use_threads(threads)
    _Worker.settings, _Worker.folder, _Worker.key, _Worker.frames = settings, folder, key, frames


def _end_with_parent() -> None:
    """A worker whose parent was killed must not go on by itself."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _track_in_worker(sequence: Sequence) -> Outcome | str:
    if _Worker.tracker is None:
        _Worker.tracker = make_tracker(_Worker.settings)
    return track_and_save(sequence, _Worker.tracker, _Worker.folder, _Worker.key, _count_frame)


def _count_frame() -> None:
    with _Worker.frames.get_lock():
        _Worker.frames.value += 1
