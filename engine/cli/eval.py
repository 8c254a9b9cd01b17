"""`esat eval DIR`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from engine.datasets.sequences import Dataset
    from engine.evaluation.pool import Failure
    from engine.evaluation.report import TrackerReport
    from engine.evaluation.tracking import Outcome, Settings


def evaluate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The data set.")],
    layout: Annotated[str, typer.Option(help="auto, otb, lasot (also lasot_ext), got10k, trackingnet, tnl2k or video.")] = "auto",
    preset: Annotated[str, typer.Option(help="Whose definition of the metrics: otb, lasot, got10k or trackingnet.")] = "otb",
    model: Annotated[
        str, typer.Option(help="A preset's name, a .safetensors file, or `none` to score other trackers only.")
    ] = "esat-s-256",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16 or int8.")] = "auto",
    backend: Annotated[str, typer.Option(help="Attention backend: auto, reference, cpu, triton or cuda.")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes; each tracks one sequence at a time, and they share the cores.")] = 1,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Track on a Ray cluster, a core a sequence: its address, auto, or local.")
    ] = None,
    json_output: Annotated[str | None, typer.Option("--json", metavar="FILE", help="Figures as JSON; - for standard output.")] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Tables as Markdown.")] = None,
    plots: Annotated[Path | None, typer.Option(metavar="DIR", help="Success and precision plots.")] = None,
    results: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep boxes here, one file a sequence. [default: out/eval/NAME-KEY]")
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
    from rich.console import Console

    from engine.datasets.layouts import open_dataset
    from engine.errors import ConfigError
    from engine.evaluation import metrics, report
    from engine.evaluation.pool import Failure
    from engine.evaluation.results import parse_comparison
    from engine.evaluation.tracking import Settings

    if preset not in metrics.PRESETS:
        raise ConfigError(f"--preset must be one of {', '.join(metrics.PRESETS)}, got {preset!r}")
    comparisons = dict(parse_comparison(text) for text in compare or [])
    settings = None if model == "none" else Settings(model, device, dtype, backend)
    if settings is None and not comparisons:
        raise ConfigError("--model none leaves nothing to score: give --compare NAME=DIR")
    if settings is None and submission is not None:
        raise ConfigError("--submission needs a model that tracks")
    dataset = open_dataset(directory, layout)
    console = Console(stderr=json_output == "-")
    broken = [Failure(entry.name, entry.reason) for entry in dataset.broken]
    truths, unreadable = report.truths(dataset.sequences)
    reports: list[TrackerReport] = []
    outcomes: dict[str, Outcome] = {}
    if settings is not None:
        outcomes, failures = _track(dataset, settings, results, workers, fresh, ray, console)
        boxes = {name: outcome.boxes for name, outcome in outcomes.items()}
        fps = {name: outcome.fps for name, outcome in outcomes.items()}
        known = {failure.name for failure in failures}
        failures += [failure for failure in unreadable if failure.name not in known]
        reports.append(report.score(_model_name(model), preset, truths, boxes, fps, [*broken, *failures]))
    for name, folder in comparisons.items():
        reports.append(_other_tracker(name, folder, preset, dataset, truths))
    unscored = [sequence.name for sequence in dataset.sequences if not sequence.scored]
    title = f"{directory.resolve().name} ({dataset.layout}, {preset} preset)"
    if markdown is not None:
        _write(markdown, report.markdown(title, _note(preset, outcomes, unscored), reports))
    if plots is not None:
        from engine.evaluation.plots import write_plots

        write_plots(plots, reports, title)
    if json_output is not None:
        text = json.dumps(_json(dataset, preset, settings is not None, outcomes, reports, unscored), indent=1) + "\n"
        if json_output == "-":
            sys.stdout.write(text)
        else:
            _write(Path(json_output), text)
    _print(console, reports, dataset, unscored)  # after the files: a closed pipe must not cost them
    if submission is not None:
        from engine.evaluation.submission import write_submission

        count = write_submission(submission, dataset, outcomes)
        console.print(f"{submission}: {count} sequences, checked", highlight=False)
    if broken or any(entry.failures for entry in reports):
        raise typer.Exit(1)


def _track(
    dataset: Dataset, settings: Settings, results: Path | None, workers: int, fresh: bool, ray: str | None, console: Console
) -> tuple[dict[str, Outcome], list[Failure]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from engine.evaluation import pool

    folder = results or Path("out") / "eval" / f"{dataset.root.resolve().name}-{settings.key()}"
    sequences = list(dataset.sequences)
    frames = {sequence.name: sequence.frame_count or 0 for sequence in sequences}
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
    with Progress(*columns, console=console, transient=not console.is_terminal) as bar:
        task = bar.add_task(f"0 of {len(sequences)} sequences", total=total, rate=0.0)

        def on_progress(progress: pool.Progress) -> None:
            nonlocal reused, finished, total
            if progress.finished is not None:
                finished += 1
            if progress.reused and progress.finished is not None:
                reused += 1
                total -= frames[progress.finished]
            elapsed = bar.tasks[0].elapsed or 0.0
            rate = progress.frames / elapsed if elapsed > 0 else 0.0
            bar.update(task, total=total, completed=progress.frames, description=f"{finished} of {len(sequences)} sequences", rate=rate)

        outcomes, failures = pool.run(sequences, settings, folder, workers, fresh, ray, on_progress)
    if reused:
        console.print(f"{reused} of {len(sequences)} sequences were there already ({folder}); --fresh tracks them again", highlight=False)
    return outcomes, failures


def _other_tracker(name: str, folder: Path, preset: str, dataset: Dataset, truths: dict[str, Any]) -> TrackerReport:
    from engine.errors import EsatError
    from engine.evaluation import report
    from engine.evaluation.pool import Failure
    from engine.evaluation.results import read_results

    boxes, failures = {}, []
    for sequence in dataset.sequences:
        if sequence.name not in truths:
            continue
        try:
            boxes[sequence.name] = read_results(folder, sequence)
        except EsatError as error:
            failures.append(Failure(sequence.name, str(error)))
    return report.score(name, preset, truths, boxes, {}, failures)


def _model_name(model: str) -> str:
    return Path(model).stem if model.endswith(".safetensors") else model


def _note(preset: str, outcomes: dict[str, Outcome], unscored: list[str]) -> str:
    run = next(iter(outcomes.values()), None)
    how = (
        f" {run.model} on {run.device} in {run.dtype}; frames/s are the tracker's own (crop, network, decode), without reading the images."
        if run
        else ""
    )
    hidden = f" {len(unscored)} sequences have no public ground truth." if unscored else ""
    return f"Figures in percent by the {preset} preset.{how}{hidden}"


def _json(
    dataset: Dataset, preset: str, tracked: bool, outcomes: dict[str, Outcome], reports: list[TrackerReport], unscored: list[str]
) -> dict[str, Any]:
    from engine.evaluation import report

    run = next(iter(outcomes.values()), None)
    own = report.to_json(reports[0]) if tracked else {"sequences": {}, "mean": {}, "failures": []}
    others = reports[1:] if tracked else reports
    return {
        "model": run.model if run else None,
        "device": run.device if run else None,
        "dtype": run.dtype if run else None,
        "preset": preset,
        "layout": dataset.layout,
        **own,
        "unscored": unscored,
        "trackers": {entry.name: report.to_json(entry) for entry in others},
    }


def _print(console: Console, reports: list[TrackerReport], dataset: Dataset, unscored: list[str]) -> None:
    from rich.markup import escape

    from engine.evaluation import report, tables

    if any(entry.scores for entry in reports):
        console.print(tables.terminal_table("Sequences", *report.sequence_rows(reports)))
        console.print(tables.terminal_table(f"Mean, {reports[0].preset} preset, percent", *report.mean_rows(reports)))
    if unscored:
        console.print(f"{len(unscored)} of {len(dataset.sequences)} sequences have no public ground truth", highlight=False)
    for entry in reports:
        for failure in entry.failures:
            line = f"[bold red]failed[/] {escape(entry.name)}, {escape(failure.name)}: {escape(failure.reason)}"
            console.print(line, soft_wrap=True, highlight=False)


def _write(path: Path, text: str) -> None:
    from engine.errors import SinkError
    from engine.files import PendingFile

    pending = PendingFile(path)
    try:
        pending.partial.write_text(text)
    except OSError as error:
        pending.discard()
        raise SinkError(f"cannot write {path}: {error.strerror}") from error
    pending.publish()
