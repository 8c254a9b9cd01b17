"""What `esat track` does once its arguments are read."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from rich.console import Console

from engine.boxes import check_box
from engine.cli.console import Box, Interrupt, TrackingProgress, parse_box, print_summary
from engine.errors import BoxError, ConfigError, SinkError, SourceError
from engine.tracking.config import TrackerConfig
from engine.tracking.tracker import Tracker
from engine.video.draw import Annotate, draw, parse_color
from engine.video.frames import Frame, Source
from engine.video.mp4 import Mp4
from engine.video.reader import Policy, Reader
from engine.video.session import Session, follow
from engine.video.sinks import BoxText, JsonFile, JsonLines, MotText, Sinks, StdoutJsonLines
from engine.video.sources import open_source
from engine.video.window import Window, check_windows, select_box


@dataclasses.dataclass(frozen=True)
class TrackOptions:
    """The command's arguments, unchecked. outputs: path or None for each of mp4, json, jsonl, txt, mot."""

    source: str
    box: str | None
    select: bool
    model: str
    device: str
    dtype: str
    loop: str
    outputs: Mapping[str, Path | None]
    show: bool
    max_frames: int | None
    color: str
    policy: str
    quiet: bool


def run_track(options: TrackOptions) -> Session:
    """Follow the target to the end of the source, to `max_frames` or to Ctrl-C, and write the outputs.

    All that can be checked is checked before the first frame is tracked. EsatError for whatever the user can mend; then no output is
    left, except after the loss of a live source, whose frames cannot be had again.
    """
    given = _given_box(options)
    policy, config = _policy(options.policy), TrackerConfig(loop=options.loop)
    annotate = functools.partial(draw, color=parse_color(options.color))
    _check_outputs(options)
    stop, session = Interrupt(), Session()
    with Reader(open_source(options.source), policy, stop=stop) as reader, Sinks() as sinks:
        frames = iter(reader)
        first = next(frames, None)
        if first is None:
            raise SourceError(f"{options.source}: no frame")
        height, width = first.image.shape[:2]
        box = check_box(select_box(first.image) if given is None else given, width, height)
        tracker = Tracker(options.model, options.device, options.dtype, config)
        about = {"model": tracker.model_config.name, "device": tracker.runner.device, "dtype": tracker.runner.dtype, "loop": config.loop}
        _open_sinks(options, sinks, first, reader, annotate, {**about, "source": options.source})
        window = Window(f"esat: {options.source}", annotate) if options.show else None
        if window is not None:
            sinks.add(window)

        def ended() -> bool:
            return stop.requested or (window is not None and window.closed)

        lost: SourceError | None = None
        with stop, TrackingProgress(_expected_frames(reader, options.max_frames), options.quiet) as progress:
            try:
                follow(tracker, first, frames, box, sinks, session, progress.step, ended, options.max_frames)
            except SourceError as error:
                if not reader.live:
                    raise
                lost = error
            losses = {"dropped_frames": reader.dropped, "damaged_frames": reader.damaged, "interrupted": stop.requested}
            sinks.finish({"frame_size": [width, height], "fps": session.fps(), **losses})
        session.interrupted = stop.requested
        if not options.quiet:
            _print_summary(about, session, reader, sinks, options)
    if lost is not None:
        raise lost
    return session


def _given_box(options: TrackOptions) -> Box | None:
    if (options.box is None) != options.select:
        raise BoxError("give the target either by --box X,Y,W,H or by --select" + ("" if options.box is None else ", not by both"))
    if options.select:
        check_windows("--select")
    if options.show:
        check_windows("--show")
    return None if options.box is None else parse_box(options.box)


def _policy(text: str) -> Policy | None:
    if text not in ("auto", "every", "newest"):
        raise ConfigError(f"--policy must be auto, every or newest, got {text!r}")
    return None if text == "auto" else cast(Policy, text)


def _check_outputs(options: TrackOptions) -> None:
    """SinkError where two outputs, or an output and the source, are the same file."""
    seen = {Path(options.source).resolve(): "the source"}
    for kind, path in options.outputs.items():
        if path is None or str(path) == "-":
            continue
        other = seen.setdefault(path.resolve(), f"the {kind} output")
        if other != f"the {kind} output":
            raise SinkError(f"cannot write {path}: it is {other} as well")


def _open_sinks(options: TrackOptions, sinks: Sinks, first: Frame, source: Source, annotate: Annotate, about: Mapping[str, str]) -> None:
    """Open the outputs asked for, each added to `sinks` at once, so that a failure of the next one removes it."""
    outputs = options.outputs
    height, width = first.image.shape[:2]
    if (path := outputs["mp4"]) is not None:
        sinks.add(Mp4(path, width, height, source.rate, source.time_base, annotate))
    if (path := outputs["json"]) is not None:
        sinks.add(JsonFile(path, about))
    if (path := outputs["jsonl"]) is not None:
        sinks.add(StdoutJsonLines() if str(path) == "-" else JsonLines(path))
    if (path := outputs["txt"]) is not None:
        sinks.add(BoxText(path))
    if (path := outputs["mot"]) is not None:
        sinks.add(MotText(path))


def _expected_frames(source: Source, max_frames: int | None) -> int | None:
    return min((count for count in (source.frame_count, max_frames) if count is not None), default=None)


def _print_summary(about: Mapping[str, str], session: Session, reader: Reader, sinks: Sinks, options: TrackOptions) -> None:
    title = f"{session.frames} frames with {about['model']} on {about['device']} in {about['dtype']}"
    title += f", {reader.dropped} skipped" if reader.dropped else ""
    title += f", {reader.damaged} damaged" if reader.damaged else ""
    console = Console(stderr=str(options.outputs["jsonl"]) == "-")
    print_summary(console, title, {"": session.fps()}, sinks.targets)
