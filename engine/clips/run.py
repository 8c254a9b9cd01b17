"""One clip: targets followed from their boxes into files."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.boxes import Box
from engine.clips.given import Given, check_given
from engine.clips.outputs import About, check_outputs, clip_info, open_outputs
from engine.clips.session import OnFrame, Session, follow
from engine.errors import BoxError, IncompleteError, SourceError
from engine.runners.protocol import Runner
from engine.tracking.config import TrackerConfig
from engine.tracking.multi import MultiTracker
from engine.video.backwards import Backwards
from engine.video.draw import COLORS, Color
from engine.video.frames import Source
from engine.video.names import shown
from engine.video.position import Position, section
from engine.video.reader import Policy, Reader
from engine.video.sinks import Sink, Sinks
from engine.video.sources import open_source
from engine.video.window import Window


@dataclasses.dataclass(frozen=True)
class Job:
    """What to do with one clip.

    source: a video file, image folder, camera number, URL, or - for standard input. given: boxes of the targets.
    outputs: a file for each format of `engine.clips.outputs.FORMATS` that is wanted. start, end: the part that is tracked, `end` not
    included; backwards: from its last frame to its first. policy: see `Reader`. ids: results carry ids; by default if there are several
    targets. label: the targets' class in annotation files. color: of the box of a single target, as blue, green, red.
    """

    source: str
    given: Sequence[Given]
    outputs: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    start: Position | None = None
    end: Position | None = None
    backwards: bool = False
    max_frames: int | None = None
    policy: Policy | None = None
    ids: bool | None = None
    label: str = "object"
    loop: str = "default"
    color: Color = COLORS["green"]


@dataclasses.dataclass
class ClipRun:
    """What became of a clip. lost: why the source ended early; what was tracked until then is kept."""

    session: Session
    outputs: list[Path] = dataclasses.field(default_factory=list)
    targets: int = 0
    dropped: int = 0
    damaged: int = 0
    notes: Sequence[str] = ()
    lost: IncompleteError | None = None


Opened = Callable[[Source], OnFrame]


def track_clip(
    job: Job,
    runner: Runner,
    stop: Callable[[], bool] = lambda: False,
    opened: Opened | None = None,
    select: Callable[[np.ndarray], list[Box]] | None = None,
    show: bool = False,
    extra: Sequence[Callable[[Source], Sink]] = (),
    open_clip: Callable[[], Source] | None = None,
    header: Mapping[str, Any] | None = None,
) -> ClipRun:
    """Follow the targets to the end of the clip or of the part, to `max_frames`, or until `stop` says so, and write the outputs.

    All that can be checked is checked before the first frame is tracked. EsatError for whatever the user can mend; then no output is left,
    except after an IncompleteError: what was tracked is kept, whatever comes after it.

    opened: called with the source when it is open; what it returns is called after each frame with the frame and its records.
    select: lets the user draw more boxes on the first frame. show: a window. extra: more sinks. open_clip: opens the clip in place of
    `job.source`'s name. header: more keys for the beginning of JSON.
    """
    check_outputs(job.source, job.outputs)
    session = Session()
    tracker = MultiTracker(runner, config=TrackerConfig(loop=job.loop))
    with Reader(_open(job, open_clip), job.policy, stop=stop) as reader, Sinks() as sinks:
        frames = iter(reader) if job.backwards else section(reader, job.start, job.end)
        first = next(frames, None)
        if first is None:
            part = "" if job.start is None and job.end is None else " between --start and --end"
            raise SourceError(f"{reader.name}: no frame{part}")
        height, width = first.image.shape[:2]
        given = list(job.given)
        if select is not None:
            taken = max((entry.target for entry in given), default=0)
            given += [Given(taken + number, box) for number, box in enumerate(select(first.image), 1)]
        check_given(given, first, reader, job.backwards)
        count = len({entry.target for entry in given})
        several = count > 1 if job.ids is None else job.ids
        names = {"model": runner.config.name, "device": runner.device, "dtype": runner.dtype, "loop": job.loop, "source": shown(job.source)}
        info = clip_info(job.source, first, reader, job.label, runner.config.name)
        about = About(info, reader, {**names, **(header or {})}, several, first.pixel_aspect, job.color)
        open_outputs(job.outputs, sinks, about)
        for make in extra:
            sinks.add(make(reader))
        window = Window(f"esat: {shown(job.source)}", about.annotate()) if show else None
        if window is not None:
            sinks.add(window)

        def ended() -> bool:
            return stop() or (window is not None and window.closed)

        run = ClipRun(session, targets=count)
        try:
            on_frame = None if opened is None else opened(reader)
            follow(
                tracker,
                itertools.chain([first], frames),
                given,
                sinks,
                session,
                on_frame,
                ended,
                job.max_frames,
                reader.rate,
                job.backwards,
            )
        except IncompleteError as error:
            run.lost = error
        if session.frames and not tracker.target_ids and not session.interrupted:
            raise BoxError(f"{reader.name}: none of the {len(given)} boxes is for a frame that was tracked")
        run.dropped, run.damaged, run.notes = reader.dropped, reader.damaged, reader.notes
        losses = {"dropped_frames": run.dropped, "damaged_frames": run.damaged, "interrupted": stop()}
        sinks.finish({"frame_size": [width, height], "fps": session.fps(), **losses})
        session.interrupted = stop()
        run.outputs = sinks.targets
    return run


def _open(job: Job, open_clip: Callable[[], Source] | None) -> Source:
    def open_again() -> Source:
        return open_source(job.source) if open_clip is None else open_clip()

    if job.backwards:
        return Backwards(open_again, job.start, job.end)
    source = open_again()
    if (start := job.start) is not None:
        source.wanted = start.reached
    return source
