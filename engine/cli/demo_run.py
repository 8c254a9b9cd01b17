"""One clip of `esat demo`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from engine.cli.console import Interrupt, TrackingProgress
from engine.demo import Clip, ContactSheet, open_clip
from engine.errors import SourceError
from engine.tracking.tracker import Tracker
from engine.video.draw import draw
from engine.video.mp4 import Mp4
from engine.video.reader import Reader
from engine.video.session import Session, follow
from engine.video.sinks import JsonFile, Sinks


@dataclasses.dataclass(frozen=True)
class ClipRun:
    """What became of one clip."""

    clip: Clip
    session: Session
    outputs: list[Path]


def run_clip(
    tracker: Tracker, wheel: Path, clip: Clip, out: Path, stop: Interrupt, sheet: Callable[[int], ContactSheet] | None, quiet: bool
) -> ClipRun:
    """Track the clip's target; write `out`/NAME.mp4 and NAME.json, and the contact sheet that `sheet` makes for a number of frames."""
    session = Session()
    about = {"model": tracker.model_config.name, "device": tracker.runner.device, "dtype": tracker.runner.dtype}
    with Reader(open_clip(wheel, clip), stop=stop) as reader, Sinks() as sinks:
        frames = iter(reader)
        first = next(frames, None)
        if first is None:
            raise SourceError(f"{reader.name}: no frame")
        height, width = first.image.shape[:2]
        sinks.add(Mp4(out / f"{clip.output}.mp4", width, height, reader.rate, reader.time_base, draw, first.pixel_aspect))
        sinks.add(JsonFile(out / f"{clip.output}.json", {**about, "source": clip.member, "target": clip.what}))
        if sheet is not None:
            sinks.add(sheet(reader.frame_count or 1))
        with stop, TrackingProgress(reader.frame_count, quiet) as progress:
            follow(tracker, first, frames, clip.box, sinks, session, progress.step, stop)
            sinks.finish({"frame_size": [width, height], "fps": session.fps(), "interrupted": stop.requested})
        return ClipRun(clip, session, sinks.targets)
