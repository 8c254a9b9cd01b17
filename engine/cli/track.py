"""`esat track SOURCE --box X,Y,W,H`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def track(
    source: Annotated[str, typer.Argument(help="Video file, image folder, camera number, URL (http, rtsp, ...), or - for standard input.")],
    box: Annotated[str | None, typer.Option(help="The target in the first frame: X,Y,W,H in pixels, X,Y the upper left corner.")] = None,
    select: Annotated[bool, typer.Option("--select", help="Draw the box with the mouse (needs a display).")] = False,
    model: Annotated[str, typer.Option(help="Preset with shipped weights, or a .safetensors file.")] = "esat-s-256",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16 or int8.")] = "auto",
    loop: Annotated[str, typer.Option(help="default, or public: without loss and return.")] = "default",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Annotated video to write (.mp4, H.264).")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="All results as one JSON file.")] = None,
    json_lines: Annotated[Path | None, typer.Option("--jsonl", help="One JSON object a frame; - for standard output.")] = None,
    txt: Annotated[Path | None, typer.Option(help="One line x,y,w,h a frame.")] = None,
    mot: Annotated[Path | None, typer.Option(help="Text in the format of MOTChallenge.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Show the frames in a window (needs a display); q or Escape ends.")] = False,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Stop after this many frames.")] = None,
    color: Annotated[str, typer.Option(help="Colour of the box: a name such as green, or #RRGGBB.")] = "green",
    policy: Annotated[str, typer.Option(help="Frames to take: every, newest (skip what comes too fast), auto (newest if live).")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no table.")] = False,
) -> None:
    """Follow one object through a video from its box in the first frame.

    Ctrl-C ends early and leaves complete files of the frames so far.
    """
    from engine.cli.tracking import TrackOptions, run_track

    outputs = {"mp4": output, "json": json_file, "jsonl": json_lines, "txt": txt, "mot": mot}
    options = TrackOptions(source, box, select, model, device, dtype, loop, outputs, show, max_frames, color, policy, quiet)
    if run_track(options).interrupted:
        raise typer.Exit(130)
