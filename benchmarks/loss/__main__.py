"""What loss and return cost and bring: the default loop against the public one, where they can fail.

    python -m benchmarks.loss DIR [DIR ...] [--test DIR] [--records DIR] [--sizes 1,2,4] [--frames N] [--workers 2] [--json FILE|-]

Every target of the folders is tracked by both loops at its size and shrunk to a half and a quarter; some clips are disturbed: the target is
covered, leaves the view, is cut away. --test: sequences on which nothing was chosen, reported apart. What the network saw is kept in
--records, so that an interrupted run goes on, and one with other thresholds asks the network for little.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from benchmarks.harness import machine, numbers, write_rows
from benchmarks.loss.clips import Job, disturbed, targets, together
from benchmarks.loss.figures import auc, compared, disturbances, false_lost, left_out, separation
from benchmarks.loss.record import Track, record
from engine.cli.exits import run_function
from engine.tracking.state import StateThresholds
from engine.weights import DEFAULT_MODEL
from engine.weights.io import file_hash
from engine.weights.shipped import find_weights, name_of


def _row(track: Track) -> dict[str, Any]:
    return {
        "kind": "clip",
        "name": track.name,
        "frames": len(track.state),
        "size": round(track.size, 1),
        "AUC_public": auc(track, track.public),
        "AUC_default": auc(track, track.default),
        "false_lost": None if (share := false_lost(track, track.state)) != share else share,
        "lost": track.state.count("LOST"),
        "switches": track.switches,
    }


def main(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR ...", help="Sequences with ground truth.")],
    test: Annotated[Path | None, typer.Option(help="Sequences on which no threshold was chosen.")] = None,
    only: Annotated[str, typer.Option(help="Names of the --test sequences to take, separated by commas; all by default.")] = "",
    records: Annotated[Path, typer.Option(help="Where to keep what the network saw.")] = Path("out/loss"),
    sizes: Annotated[str, typer.Option(help="By how much the frames are shrunk.")] = "1,2,4",
    frames: Annotated[int, typer.Option(min=60, help="Frames of each sequence at most.")] = 10_000,
    model: Annotated[str, typer.Option(help="A preset's name or a .safetensors file.")] = DEFAULT_MODEL,
    dtype: Annotated[str, typer.Option(help="fp32, bf16 or int8.")] = "fp32",
    workers: Annotated[int, typer.Option(min=1, help="Processes of one thread each.")] = 2,
    json_path: Annotated[str | None, typer.Option("--json", help="Also write JSON lines to a file, or to stdout (-).")] = None,
) -> None:
    """Track with both loops and compare."""
    weights = file_hash(find_weights(model).path)
    folder = records / f"{weights[:16]}-{dtype}"
    known = [target for _, target in together(folders)]
    shrinks = numbers(sizes, "--sizes")
    plain = [Job(target, frames, shrink) for target in known for shrink in shrinks]
    others = disturbed(known, frames)
    unseen = [
        Job(target, frames, shrink)
        for target in (targets(test, tuple(only.split(",")) if only else ()) if test else [])
        for shrink in shrinks
    ]
    console = Console(stderr=True)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("clips", total=len(plain) + len(others) + len(unseen))
        tracks = record([*plain, *others, *unseen], model, dtype, folder, workers, lambda: progress.advance(task))
    whole, away, fresh = tracks[: len(plain)], tracks[len(plain) : len(plain) + len(others)], tracks[len(plain) + len(others) :]
    rows: list[dict[str, Any]] = [
        {"kind": "thresholds", "model": name_of(model), "dtype": dtype, "sizes": shrinks, "frames_at_most": frames}
        | dataclasses.asdict(StateThresholds())
        | machine(),
        {"kind": "separation", **separation([*whole, *away])},
        {"kind": "plain", **compared(whole)},
        *([{"kind": "disturbed", **disturbances(away)}, {"kind": "left_out", **left_out(whole, away)}] if away else []),
        *([{"kind": "test", **compared(fresh)}] if fresh else []),
    ]
    for row in rows:
        console.print(row)
    write_rows([*rows, *map(_row, tracks)], json_path)


if __name__ == "__main__":
    run_function(main)
