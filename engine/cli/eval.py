"""`esat eval DIR`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from engine.datasets.sequences import Dataset
    from engine.evaluation import pool
    from engine.evaluation.run import Evaluation


def evaluate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The data set.")],
    layout: Annotated[
        str, typer.Option(help="auto, otb, lasot (also lasot_ext), got10k, trackingnet, tnl2k, uav123, uav20l, nfs or video.")
    ] = "auto",
    preset: Annotated[str, typer.Option(help="Whose definition of the metrics: otb, pytracking, lasot, got10k or trackingnet.")] = "otb",
    model: Annotated[
        str, typer.Option(help="A preset's name, a .safetensors file, or `none` to score other trackers only.")
    ] = "esat-s-256",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16, int8 or fp8.")] = "auto",
    backend: Annotated[str, typer.Option(help="Attention backend: auto, reference, cpu, triton or cuda.")] = "auto",
    loop: Annotated[str, typer.Option(help="default, or public: without loss and return.")] = "default",
    workers: Annotated[int, typer.Option(help="Processes; each tracks one sequence at a time, and they share the cores.")] = 1,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Track on a Ray cluster, a core a sequence: its address, auto, or local.")
    ] = None,
    json_output: Annotated[str | None, typer.Option("--json", metavar="FILE", help="Figures as JSON; - for standard output.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Figures as CSV, a line for each tracker and sequence.")] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Tables as Markdown.")] = None,
    plots: Annotated[Path | None, typer.Option(metavar="DIR", help="Success and precision plots.")] = None,
    results: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep boxes and times here, a few files a sequence. [default: out/eval/NAME-KEY]"),
    ] = None,
    fresh: Annotated[bool, typer.Option(help="Track again what has been tracked already.")] = False,
    compare: Annotated[
        list[str] | None, typer.Option(metavar="NAME=DIR", help="Another tracker's results, NAME.txt each; repeatable.")
    ] = None,
    submission: Annotated[Path | None, typer.Option(metavar="FILE", help="Zip for the GOT-10k or TrackingNet server.")] = None,
) -> None:
    """Track the sequences of a data set and score the boxes. An interrupted run goes on where it stopped.

    Exit code 1: a sequence failed; it is listed, and the means are those of the others.
    """
    from engine.cli.terminal import terminal
    from engine.datasets.layouts import open_dataset
    from engine.errors import ConfigError
    from engine.evaluation import metrics
    from engine.evaluation.results import parse_comparisons
    from engine.evaluation.run import evaluate as run
    from engine.evaluation.tracking import Settings
    from engine.tracking.config import TrackerConfig

    if preset not in metrics.PRESETS:
        raise ConfigError(f"--preset must be one of {', '.join(metrics.PRESETS)}, got {preset!r}")
    comparisons = parse_comparisons(compare or [])
    settings = None if model == "none" else Settings(model, device, dtype, backend, TrackerConfig(loop=loop).loop)
    if settings is None and not comparisons:
        raise ConfigError("--model none leaves nothing to score: give --compare NAME=DIR")
    if settings is None and submission is not None:
        raise ConfigError("--submission needs a model that tracks")
    outputs = {"markdown": markdown, "csv": csv, "json": json_output, "submission": submission}
    _check_outputs({f"the {name} output": Path(path) for name, path in outputs.items() if path is not None and str(path) != "-"})
    dataset = open_dataset(directory, layout)
    console = terminal(stderr=json_output == "-")
    with _progress(dataset) as on_progress:
        found = run(dataset, settings, preset, comparisons, results, workers, fresh, ray, on_progress)
    if markdown is not None:
        _write(markdown, found.to_markdown())
    if csv is not None:
        _write(csv, found.to_csv())
    if plots is not None:
        from engine.evaluation.plots import write_plots

        write_plots(plots, found.reports, found.title)
    if json_output is not None:
        text = json.dumps(found.to_json(), indent=1) + "\n"
        if json_output == "-":
            sys.stdout.write(text)
        else:
            _write(Path(json_output), text)
    _print(console, found)  # after the files: a closed pipe must not cost them
    if submission is not None:
        from engine.evaluation.submission import write_submission

        count = write_submission(submission, dataset, found.outcomes)
        console.print(f"{submission}: {count} sequences, checked", highlight=False)
    if found.failed:
        raise typer.Exit(1)


@contextmanager
def _progress(dataset: Dataset) -> Iterator[Callable[[pool.Progress], None]]:
    """A bar on standard error, or a line a finished sequence where that is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from engine.cli.lines import bar_is_shown, say
    from engine.cli.terminal import terminal
    from engine.evaluation.tracking import Outcome

    frames = {sequence.name: sequence.frame_count or 0 for sequence in dataset.sequences}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("frames, {task.fields[rate]:.0f} a second"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    reused = finished = 0
    total = sum(frames.values())
    with Progress(*columns, console=terminal(stderr=True), transient=True, disable=not bar_is_shown()) as bar:
        task = bar.add_task("", total=total, rate=0.0)

        def tell(progress: pool.Progress) -> None:
            nonlocal reused, finished, total
            if progress.finished is not None:
                finished += 1
                if progress.reused:
                    reused += 1
                    total -= frames[progress.finished]
                elif not bar_is_shown():
                    result = progress.result
                    how = f"{len(result.boxes)} frames, {result.fps:.1f} a second" if isinstance(result, Outcome) else f"failed: {result}"
                    say(f"{finished} of {len(frames)} sequences: {progress.finished}, {how}")
            elapsed = bar.tasks[0].elapsed or 0.0
            rate = progress.frames / elapsed if elapsed > 0 else 0.0
            bar.update(task, total=total, completed=progress.frames, description=f"{finished} of {len(frames)} sequences", rate=rate)

        yield tell
    if reused:
        say(f"{reused} of {len(frames)} sequences were there already; --fresh tracks them again")


def _print(console: Console, found: Evaluation) -> None:
    from rich.markup import escape

    from engine.evaluation import report, tables

    if any(entry.scores for entry in found.reports):
        console.print(tables.terminal_table("Sequences", *report.sequence_rows(found.reports)))
        loop = f", {found.loop} loop" if found.loop else ""
        console.print(tables.terminal_table(f"Mean, {found.preset} preset, percent{loop}", *report.mean_rows(found.reports)))
    if found.unscored:
        console.print(f"{len(found.unscored)} of {found.dataset.found} sequences have no public ground truth", highlight=False)
    for note in found.notes:
        console.print(f"[yellow]note[/] {escape(note)}", soft_wrap=True, highlight=False)
    for entry in found.reports:
        for failure in entry.failures:
            line = f"[bold red]failed[/] {escape(entry.name)}, {escape(failure.name)}: {escape(failure.reason)}"
            console.print(line, soft_wrap=True, highlight=False)


def _check_outputs(outputs: dict[str, Path]) -> None:
    """SinkError, before anything is tracked, for two outputs that are the same file, and for one that is a folder."""
    from engine.errors import SinkError
    from engine.files import check_apart

    check_apart(outputs)
    for path in outputs.values():
        if os.path.isdir(path):
            raise SinkError(f"cannot write {path}: it is a folder")


def _write(path: Path, text: str) -> None:
    from engine.files import PendingFile

    with PendingFile(path) as pending:
        pending.partial.write_text(text)
