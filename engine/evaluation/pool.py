"""Tracks the sequences of a data set: here, in worker processes, or on a cluster. What has been tracked already is used again."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path

from engine.datasets.sequences import Failure, Sequence
from engine.errors import ConfigError
from engine.evaluation import tracking
from engine.evaluation.cluster import track_on_ray
from engine.evaluation.processes import track_in_processes
from engine.evaluation.tracking import Outcome, Settings


@dataclasses.dataclass(frozen=True)
class Progress:
    """Told after every finished sequence and now and then in between."""

    frames: int  # tracked in this run so far
    finished: str | None = None  # the sequence that has just been finished
    result: Outcome | str | None = None  # its result, or why there is none
    reused: bool = False  # the result was there already


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
    model cannot run at all) and SinkError (`folder` holds files of others under the results' names) come before any tracking.
    """
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}")
    from engine.runners.device import resolve_device

    resolve_device(settings.device)
    tracking.check_folder(folder, [sequence.name for sequence in sequences])
    key = settings.key()
    outcomes: dict[str, Outcome] = {}
    todo = []
    for sequence in sequences:
        known = None if fresh else tracking.load(folder, sequence.name, key, tracking.fingerprint(sequence))
        if known is None:
            todo.append(sequence)
        else:
            outcomes[sequence.name] = known
            on_progress(Progress(0, sequence.name, known, reused=True))
    failures: list[Failure] = []
    # Long sequences first, so that no worker is left alone with one at the end.
    todo.sort(key=lambda sequence: (-(sequence.frame_count or math.inf), sequence.name))
    if todo:
        tracked = 0

        def report(frames: int) -> None:
            nonlocal tracked
            tracked = frames
            on_progress(Progress(frames))

        if ray is not None:
            results = track_on_ray(todo, settings, folder, key, ray, report)
        elif workers == 1:
            results = _in_this_process(todo, settings, folder, key, report)
        else:
            results = track_in_processes(todo, settings, folder, key, min(workers, len(todo)), report)
        for name, result in results:
            on_progress(Progress(tracked, name, result))
            if isinstance(result, Outcome):
                outcomes[name] = result
            else:
                failures.append(Failure(name, result))
    order = {sequence.name: index for index, sequence in enumerate(sequences)}
    failures.sort(key=lambda failure: order[failure.name])
    return {name: outcomes[name] for name in order if name in outcomes}, failures


def _in_this_process(
    todo: list[Sequence], settings: Settings, folder: Path, key: str, report: Callable[[int], None]
) -> Iterator[tuple[str, Outcome | str]]:
    tracker = tracking.make_tracker(settings)
    count = 0

    def on_frame() -> None:
        nonlocal count
        count += 1
        report(count)

    for sequence in todo:
        yield sequence.name, tracking.track_and_save(sequence, tracker, folder, key, on_frame)
