"""Many clips: each into a folder of outputs; one that fails does not stop the others."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from engine.clips.given import Given, boxes_for, read_given, read_given_of_clips
from engine.clips.outputs import FORMATS
from engine.clips.run import Job, track_clip
from engine.errors import BoxError, EsatError, SinkError
from engine.runners.protocol import Runner
from engine.video.names import shown, without_password


@dataclasses.dataclass(frozen=True)
class Model:
    """With what to track; small enough to be sent to every worker. Arguments as `engine.tracking.tracker.open_runner`."""

    model: str
    device: str = "auto"
    dtype: str = "auto"
    search_factor: float | None = None

    def open(self) -> Runner:
        from engine.tracking.tracker import open_runner

        return open_runner(self.model, self.device, self.dtype, "auto", self.search_factor)


@dataclasses.dataclass(frozen=True)
class Done:
    """What became of one clip. failure: why there are no outputs, or (live sources) why they end where they do."""

    clip: str
    frames: int = 0
    targets: int = 0
    fps: float | None = None
    unused: int = 0  # boxes whose frame did not come
    failure: str | None = None
    interrupted: bool = False


def read_table(boxes: Path) -> Callable[[str], list[Given]]:
    """The boxes of each clip: from NAME.txt in a folder, or from the lines of a file that begin with the clip's name.

    A file without names of clips holds for every clip. The function raises BoxError for a clip without boxes.
    """
    if os.path.isdir(boxes):
        return lambda clip: read_given(boxes / f"{_stem(clip)}.txt")
    table = read_given_of_clips(boxes)

    def find(clip: str) -> list[Given]:
        found = table[""] if "" in table else boxes_for(clip, table)
        if found is None:
            raise BoxError(f"{boxes} has no boxes of {Path(shown(clip)).name}")
        return found

    return find


def make_jobs(sources: Sequence[str], folder: Path, formats: Sequence[str], like: Job) -> list[Job]:
    """A job for each clip, as `like` but with outputs FOLDER/NAME.SUFFIX. SinkError where two clips have the same name."""
    jobs: dict[str, Job] = {}
    for source in sources:
        name = _stem(source)
        if name in jobs:
            both = f"{shown(jobs[name].source)} and {shown(source)}"
            raise SinkError(f"{both} would both be written to {folder / name}.*: track them one after the other")
        outputs = {kind: folder / f"{name}{FORMATS[kind][0]}" for kind in formats}
        jobs[name] = dataclasses.replace(like, source=source, outputs=outputs)
    return list(jobs.values())


def track_clips(
    jobs: Sequence[Job], boxes: Callable[[str], list[Given]], model: Model, stop: Callable[[], bool] = lambda: False, **options: Any
) -> Iterator[Done]:
    """Track one clip after the other in this process. options: of `track_clip`. The model's own errors come at once."""
    runner = model.open()
    for job in jobs:
        if stop():
            return
        yield _track(job, boxes, runner, stop=stop, **options)


def track_clips_on_ray(jobs: Sequence[Job], boxes: Callable[[str], list[Given]], model: Model, address: str) -> Iterator[Done]:
    """The same on a Ray cluster, a clip a task and a core. Every node needs the package, the clips and the outputs' folder under these paths."""
    from engine.evaluation.cluster import run_on_ray

    ready: dict[str, tuple[Any, ...]] = {}
    for job in jobs:
        try:
            ready[job.source] = (dataclasses.replace(job, given=boxes(job.source)), model)
        except EsatError as error:
            yield Done(shown(job.source), failure=_one_line(error))
    for ended in run_on_ray(_track_in_worker, ready, address, model.device.startswith("cuda")):
        if ended is not None:
            name, result = ended
            yield result if isinstance(result, Done) else Done(shown(name), failure=str(result))


def _track(job: Job, boxes: Callable[[str], list[Given]] | None, runner: Runner, **options: Any) -> Done:
    name = shown(job.source)
    try:
        if boxes is not None:
            job = dataclasses.replace(job, given=boxes(job.source))
        run = track_clip(job, runner, **options)
    except (EsatError, ValueError, RuntimeError, OSError, MemoryError) as error:  # one bad clip is a failure of its own
        return Done(name, failure=_one_line(error))
    session = run.session
    failure = None if run.lost is None else _one_line(run.lost)
    return Done(name, session.frames, run.targets, session.fps()["pipeline"], len(session.unused), failure, session.interrupted)


class _Worker:
    """What a worker process keeps from one clip to the next."""

    model: Model | None = None
    runner: Any = None


def _track_in_worker(job: Job, model: Model) -> Done:
    from engine.workers import use_threads

    use_threads()
    if _Worker.model != model:
        _Worker.runner, _Worker.model = model.open(), model
    return _track(job, None, _Worker.runner)


def _stem(source: str) -> str:
    """What the files that belong to a clip are named after."""
    return Path(without_password(source)).stem


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, EsatError) else f"{type(error).__name__}: {text}"
