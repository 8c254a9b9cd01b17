"""Calibrates when a target counts as lost, and reports what that reaches on clips kept back.

    python -m benchmarks.loss DIR [--also DIR] [--model M] [--seeds 1] [--frames 150] [--workers 2] [--json FILE|-] [--plot FILE]

Every second sequence of DIR, in the order of their names, is kept back; the others and those of --also choose the thresholds. Each sequence
is tracked as it is and with its target covered, out of view, and cut away. Give the thresholds that it prints to `TrackerConfig`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress

from benchmarks.harness import machine, write_rows
from benchmarks.loss.calibrate import GRID, RETURN_STEPS, Curves, choose_found, choose_lost, reached, separation
from benchmarks.loss.record import Track, jobs, record
from engine.cli.exits import run_function
from engine.datasets.layouts import open_dataset
from engine.datasets.sequences import Sequence
from engine.errors import DatasetError
from engine.tracking.state import NEVER_LOST, StateThresholds
from engine.weights import DEFAULT_MODEL


def scored(folder: Path) -> list[Sequence]:
    """The sequences whose every frame has a box, by name. DatasetError if there are fewer than two."""
    found = sorted((sequence for sequence in open_dataset(folder).sequences if sequence.scored), key=lambda sequence: sequence.name)
    if len(found) < 2:
        raise DatasetError(f"{folder}: calibration needs two sequences with a box in every frame, found {len(found)}")
    return found


def plot(path: Path, parts: dict[str, Curves]) -> None:
    """False alarms and flagged disturbances over the threshold, for each part of the data."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for (name, swept), style in zip(parts.items(), ("-", "--"), strict=False):
        for label, values, colour in (
            ("flagged within 10 frames", swept.flagged, "tab:green"),
            ("false alarms", swept.false_alarms, "tab:red"),
        ):
            axis.plot(GRID, values, style, color=colour, label=f"{label}, {name}")
    axis.set(xlabel="confidence", ylabel="share of disturbances or frames", ylim=(0, 1))
    axis.legend()
    figure.savefig(path)


def main(
    folder: Annotated[Path, typer.Argument(help="Sequences with ground truth; every second one is kept back.")],
    also: Annotated[Path | None, typer.Option(help="More sequences to calibrate on.")] = None,
    model: Annotated[str, typer.Option(help="A preset's name or a .safetensors file.")] = DEFAULT_MODEL,
    seeds: Annotated[int, typer.Option(min=1, help="Disturbed clips of each kind and sequence.")] = 1,
    frames: Annotated[int, typer.Option(min=60, help="Frames of each undisturbed sequence.")] = 150,
    workers: Annotated[int, typer.Option(min=1, help="Processes of one thread each.")] = 2,
    json_path: Annotated[str | None, typer.Option("--json", help="Also write JSON lines to a file, or to stdout (-).")] = None,
    plot_path: Annotated[Path | None, typer.Option("--plot", help="Picture of the curves.")] = None,
) -> None:
    """Choose the thresholds and report what they reach on held-out clips."""
    sequences, more = scored(folder), scored(also) if also is not None else []
    calibration, held_out = sequences[::2] + more, sequences[1::2]
    donors = more or calibration
    console = Console(stderr=True)
    with Progress(console=console, transient=True) as progress:

        def tracked(part: list[Sequence], thresholds: StateThresholds, what: str, plain: bool = True) -> list[Track]:
            todo = [job for job in jobs(part, donors, seeds, frames) if plain or job.kind != "plain"]
            task = progress.add_task(what, total=len(todo))
            return record(todo, model, thresholds, workers, lambda: progress.advance(task))

        public = tracked(calibration, NEVER_LOST, "calibration clips")
        first, swept = choose_lost(public)
        steps = [dataclasses.replace(first, found=round(min(1.0, first.confident + step), 2)) for step in RETURN_STEPS]
        tried = [(one, tracked(calibration, one, f"returns at {one.found}", plain=False)) for one in steps]
        thresholds = choose_found(tried)
        results = tracked(held_out, thresholds, "held-out clips")
    rows: list[dict[str, Any]] = [
        {"kind": "thresholds", "model": model, **dataclasses.asdict(thresholds), **machine()},
        {"kind": "separation", **{signal: separation(public, signal) for signal in ("confidence", "score")}},
        *({"kind": "found", "found": one.found, **reached(tracks)} for one, tracks in tried),
        {"kind": "held_out", **reached(results)},
        *(
            {"kind": f"held_out:{name}", **reached([track for track in results if track.kind == name])}
            for name in ("cover", "leave", "cut")
        ),
        {"kind": "curves", **{name: getattr(value, "tolist", lambda value=value: value)() for name, value in vars(swept).items()}},
    ]
    for row in rows[:-1]:
        console.print(row)
    write_rows(rows, json_path)
    if plot_path is not None:
        plot(plot_path, {"calibration": swept})


if __name__ == "__main__":
    run_function(main)
