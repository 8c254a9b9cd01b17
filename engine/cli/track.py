"""`esat track SOURCE... --box X,Y,W,H`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from engine.clips.given import Given
    from engine.clips.many import Model
    from engine.clips.run import ClipRun, Job
    from engine.clips.session import OnFrame
    from engine.runners.protocol import Runner
    from engine.video.frames import Source
    from engine.video.reader import Policy

_PLACE = "a frame (48) or a time (2s, 00:01:02.5)"
_CLIPS, _TARGETS, _PART, _OUTPUTS, _MODEL = "Clips", "Targets", "Part of the clip", "Outputs", "Model"


def track(
    sources: Annotated[
        list[str],
        typer.Argument(help="Video file, image folder, camera number, URL (http, rtsp, ...), - for standard input; or many clips."),
    ],
    box: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X,Y,W,H[@PLACE]",
            rich_help_panel=_TARGETS,
            help=f"A target's box in pixels, X,Y the upper left corner, in the first frame or at PLACE, {_PLACE}. Repeat it for more targets.",
        ),
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_TARGETS,
            help="Lines frame,id,x,y,w,h (frames from 0): targets at any frame; a later box of an id corrects it. "
            "For many clips: lines clip,frame,id,x,y,w,h, or a folder with NAME.txt for each.",
        ),
    ] = None,
    select: Annotated[
        bool, typer.Option("--select", rich_help_panel=_TARGETS, help="Draw boxes with the mouse (needs a display).")
    ] = False,
    start: Annotated[str | None, typer.Option(metavar="PLACE", rich_help_panel=_PART, help=f"First frame to track: {_PLACE}.")] = None,
    end: Annotated[str | None, typer.Option(metavar="PLACE", rich_help_panel=_PART, help="First frame that is no longer tracked.")] = None,
    reverse: Annotated[bool, typer.Option("--reverse", rich_help_panel=_PART, help="From the last frame to the first one.")] = False,
    max_frames: Annotated[int | None, typer.Option(min=1, rich_help_panel=_PART, help="Stop after this many frames.")] = None,
    policy: Annotated[
        str, typer.Option(rich_help_panel=_PART, help="Frames to take: every, newest (skip what comes too fast), auto (newest if live).")
    ] = "auto",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", rich_help_panel=_OUTPUTS, help="Annotated video to write (.mp4, H.264).")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", rich_help_panel=_OUTPUTS, help="All results as one JSON file.")] = None,
    json_lines: Annotated[
        Path | None, typer.Option("--jsonl", rich_help_panel=_OUTPUTS, help="One JSON object a target and frame; - for standard output.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(rich_help_panel=_OUTPUTS, help="Table: frame,time,id,x,y,w,h,score,state,latency_ms.")] = None,
    txt: Annotated[
        Path | None, typer.Option(rich_help_panel=_OUTPUTS, help="One line x,y,w,h a frame; several targets: frame,id,x,y,w,h.")
    ] = None,
    mot: Annotated[Path | None, typer.Option(rich_help_panel=_OUTPUTS, help="Text in the format of MOTChallenge.")] = None,
    coco: Annotated[Path | None, typer.Option(rich_help_panel=_OUTPUTS, help="COCO JSON of a video, with track ids.")] = None,
    cvat: Annotated[Path | None, typer.Option(rich_help_panel=_OUTPUTS, help="CVAT for video 1.1, XML.")] = None,
    label_studio: Annotated[Path | None, typer.Option(rich_help_panel=_OUTPUTS, help="Label Studio's JSON of tracked boxes.")] = None,
    label: Annotated[str, typer.Option(rich_help_panel=_OUTPUTS, help="The targets' class in these three.")] = "object",
    show: Annotated[
        bool, typer.Option("--show", rich_help_panel=_OUTPUTS, help="Show the frames in a window (needs a display); q or Escape ends.")
    ] = False,
    color: Annotated[
        str, typer.Option(rich_help_panel=_OUTPUTS, help="Colour of a single target's box: a name such as green, or #RRGGBB.")
    ] = "green",
    output_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", rich_help_panel=_CLIPS, help="Write DIR/NAME.SUFFIX for each clip. [default with many: out/track]"),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", rich_help_panel=_CLIPS, help="What to write there: mp4,json,jsonl,txt,mot,csv,coco,cvat,label-studio."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", rich_help_panel=_CLIPS, help="Track on a Ray cluster, a core a clip: its address, auto, or local."),
    ] = None,
    model: Annotated[str, typer.Option(rich_help_panel=_MODEL, help="Preset with shipped weights, or a .safetensors file.")] = "esat-s-256",
    device: Annotated[str, typer.Option(rich_help_panel=_MODEL, help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(rich_help_panel=_MODEL, help="auto, fp32, bf16, fp16, int8 or fp8.")] = "auto",
    loop: Annotated[str, typer.Option(rich_help_panel=_MODEL, help="default, or public: without loss and return.")] = "default",
    search_factor: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=_MODEL,
            help="Side of the search region over the target's size; the model's own is 4 (esat-s-256). More: for targets that leap.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no table.")] = False,
) -> None:
    """Follow objects through a video, each from a box.

    Ctrl-C ends early and leaves complete files of the frames so far. Frames count from 0 and times from the first frame of the source.
    Exit code 2: bad input, or a clip of many that failed; 3: the source ended before its end, outputs hold what came before; 130: interrupted.
    """
    from engine.clips.many import Model
    from engine.clips.outputs import parse_formats
    from engine.clips.run import Job
    from engine.errors import ConfigError
    from engine.tracking.config import TrackerConfig
    from engine.video.draw import parse_color
    from engine.video.position import parse_position

    if policy not in ("auto", "every", "newest"):
        raise ConfigError(f"--policy must be auto, every or newest, got {policy!r}")
    paths = {"mp4": output, "json": json_file, "jsonl": json_lines, "csv": csv, "txt": txt, "mot": mot}
    paths |= {"coco": coco, "cvat": cvat, "label-studio": label_studio}
    many = len(sources) > 1 or output_dir is not None
    job = Job(
        sources[0],
        [] if many else _given(box, boxes, select),
        {name: path for name, path in paths.items() if path is not None},
        None if start is None else parse_position(start, "--start"),
        None if end is None else parse_position(end, "--end"),
        reverse,
        max_frames,
        None if policy == "auto" else cast("Policy", policy),
        True if boxes is not None else None,
        label,
        TrackerConfig(loop=loop).loop,
        parse_color(color),
    )
    weights = Model(model, device, dtype, search_factor)
    if not many:
        if formats or ray is not None:
            raise ConfigError(f"{'--format' if formats else '--ray'} is for many clips: give --output-dir DIR as well")
        run = _track_one(job, weights.open(), select, show, quiet)
        if run.lost is not None:
            raise run.lost
        if run.session.interrupted:
            raise typer.Exit(130)
        return
    if job.outputs or select or show:
        raise ConfigError(
            "many clips are written by --output-dir DIR --format NAME,...; options for single files, --select and --show do not apply"
        )
    _track_many(job, sources, box, boxes, output_dir or Path("out") / "track", parse_formats(formats or ["json"]), ray, weights, quiet)


def _given(box: list[str] | None, boxes: Path | None, select: bool) -> list[Given]:
    from engine.clips.given import parse_boxes, read_given
    from engine.errors import BoxError

    chosen = [name for name, there in (("--box", bool(box)), ("--boxes", boxes is not None), ("--select", select)) if there]
    if len(chosen) != 1:
        more = "" if not chosen else ", not by both: " + " and ".join(chosen)
        raise BoxError(f"give the targets either by --box X,Y,W,H or by --select or by --boxes FILE{more}")
    if boxes is not None:
        return read_given(boxes)
    return parse_boxes(box or [])


def _track_one(job: Job, runner: Runner, select: bool, show: bool, quiet: bool) -> ClipRun:
    from engine.cli.console import Interrupt, TrackingProgress, print_summary
    from engine.cli.terminal import terminal
    from engine.clips.run import track_clip
    from engine.video.names import shown
    from engine.video.window import check_windows, select_boxes

    for option, wanted in (("--select", select), ("--show", show)):
        if wanted:
            check_windows(option)
    stop = Interrupt()
    with contextlib.ExitStack() as stack:

        def opened(source: Source) -> OnFrame:
            stack.enter_context(stop)
            return stack.enter_context(TrackingProgress(_expected(job, source), quiet)).step

        run = track_clip(job, runner, stop, opened, select_boxes if select else None, show)
    if run.session.unused:
        _print_unused(terminal(stderr=True), shown(job.source), len(run.session.unused))
    if not quiet:
        for note in run.notes:
            terminal(stderr=True).print(f"{shown(job.source)}: {note}", markup=False, highlight=False, soft_wrap=True)
        title = f"{run.session.frames} frames with {runner.config.name} on {runner.device} in {runner.dtype}"
        title += f", {run.targets} targets" if run.targets > 1 else ""
        title += f", {run.dropped} skipped" if run.dropped else ""
        title += f", {run.damaged} damaged" if run.damaged else ""
        console = terminal(stderr=str(job.outputs.get("jsonl")) == "-")
        print_summary(console, title, {"": run.session.fps()}, run.outputs)
    return run


def _track_many(
    like: Job,
    sources: list[str],
    box: list[str] | None,
    boxes: Path | None,
    folder: Path,
    formats: list[str],
    ray: str | None,
    model: Model,
    quiet: bool,
) -> None:
    """Track each clip, with a line on standard output for each. Exit code 2 if one failed, 130 after Ctrl-C."""
    from engine.cli.console import Interrupt, TrackingProgress
    from engine.cli.terminal import terminal
    from engine.clips.given import parse_boxes
    from engine.clips.many import make_jobs, read_table, track_clips, track_clips_on_ray
    from engine.errors import BoxError

    if bool(box) == (boxes is not None):
        raise BoxError("give the targets of many clips either by --boxes FILE (or folder) or by --box X,Y,W,H, the same for each")
    same = parse_boxes(box or [])
    table = read_table(boxes) if boxes is not None else lambda clip: same
    jobs = make_jobs(sources, folder, formats, like)
    console, errors, stop = terminal(highlight=False), terminal(stderr=True, highlight=False), Interrupt()
    progress: list[TrackingProgress] = []

    def close() -> None:
        while progress:
            progress.pop().__exit__(None, None, None)

    def opened(source: Source) -> OnFrame:
        progress.append(TrackingProgress(_expected(like, source), quiet, source.name))
        return progress[-1].__enter__().step

    failed, interrupted = 0, False
    with stop if ray is None else contextlib.nullcontext():
        runs = track_clips(jobs, table, model, stop, opened=opened) if ray is None else track_clips_on_ray(jobs, table, model, ray)
        for done in runs:
            close()
            interrupted = interrupted or done.interrupted
            if done.failure is not None:
                failed += 1
                errors.print(f"{done.clip}: failed: {done.failure}", markup=False, soft_wrap=True)
                continue
            if done.unused:
                _print_unused(errors, done.clip, done.unused)
            speed = "" if done.fps is None else f", {done.fps:.1f} frames/s"
            several = "s" if done.targets != 1 else ""
            console.print(f"{done.clip}: {done.frames} frames, {done.targets} target{several}{speed}", markup=False, soft_wrap=True)
    close()
    if not quiet:
        console.print(f"{len(jobs)} clips, {failed} failed; outputs are in {folder}", markup=False, soft_wrap=True)
    if stop.requested or interrupted:
        raise typer.Exit(130)
    if failed:
        raise typer.Exit(2)


def _print_unused(console: Console, clip: str, count: int) -> None:
    console.print(f"warning: {clip}: {count} boxes are for frames that were not tracked", markup=False, highlight=False, soft_wrap=True)


def _expected(job: Job, source: Source) -> int | None:
    """About how many frames there are to track, None if nobody knows."""
    last = source.frame_count
    if job.end is not None:
        end = job.end.frame_number(source.rate)
        last = end if last is None else min(last, end)
    if last is None:
        return job.max_frames
    count = max(0, last - (0 if job.start is None else job.start.frame_number(source.rate)))
    return count if job.max_frames is None else min(count, job.max_frames)
