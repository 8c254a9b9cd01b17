"""Weights side by side, and which one would be shipped: AUC by the public loop at several sizes from several first frames.

    python -m benchmarks.selection WEIGHTS ... [--peer FILE.py] [--data ../shared/data/eval_dev ...] [--scales 1,2,4] [--starts 0,5,10]
        [--frames 150] [--no-whole] [--dtype fp32] [--cache out/selection] [--workers 1] [--no-follow] [--json FILE|-] [--store DIR]

WEIGHTS: presets' names or .safetensors files; the first one is what the others are compared with. Reduced frames go through INTER_AREA and JPEG.
--peer: a Python file with a class NanoTrack(image, box) and update(image) -> box. Boxes are kept in --cache by the weights' hash, dtype and clip:
further weights cost their own runs alone, and an interrupted run goes on. `--store` keeps selection-FOLDER-DTYPE.json and .md, of
several folders selection-FOLDER+FOLDER-DTYPE.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.harness import distinct, keep, machine, numbers, write_rows
from benchmarks.loss.clips import together
from benchmarks.selection import figures
from benchmarks.selection.clips import QUALITY, Excerpt, excerpts, material_of
from benchmarks.selection.runs import Boxes, Contender, follow_all, kept
from engine.cli.exits import run_function
from engine.cli.lines import Pace, bar_is_shown, say
from engine.errors import DatasetError
from engine.evaluation.tables import terminal_table
from engine.weights import DEFAULT_MODEL, find_weights
from engine.weights.shipped import name_of

_SECONDS_A_LINE = 60.0


def contenders(weights: Sequence[str], peers: Sequence[Path], dtype: str) -> list[Contender]:
    """In the order given, peers last. ConfigError for two of one name, WeightsError and DatasetError for what cannot be opened."""
    found = []
    for source in weights:
        find_weights(source)
        found.append(Contender(name_of(source), source, dtype=dtype))
    for path in peers:
        if not path.is_file():
            raise DatasetError(f"--peer {path}: expected a Python file, found none")
        found.append(Contender(path.stem, str(path), peer=True))
    distinct([one.name for one in found])
    return found


def compare(entered: Sequence[Contender], starts: Sequence[Excerpt], whole: Sequence[Excerpt], boxes: Boxes) -> list[figures.Row]:
    """The rows of all contenders; those of the first one come first at each size."""
    rows = []
    for kind, clips in (("starts", starts), ("whole", whole)):
        for scale in dict.fromkeys(clip.scale for clip in clips):
            found = [figures.row(one, kind, scale, [clip for clip in clips if clip.scale == scale], boxes) for one in entered]
            rows += [found[0], *(figures.against(row, found[0]) for row in found[1:])]
    return rows


def _follow(entered: Sequence[Contender], clips: Sequence[Excerpt], cache: Path, workers: int, console: Console) -> Boxes:
    """All boxes, with a bar, or without a terminal a line a minute."""
    total = len(entered) * sum({clip.name: len(clip) for clip in sorted(clips, key=len)}.values())
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("frames"))
    pace, done = Pace(_SECONDS_A_LINE), 0
    with Progress(*columns, console=console, transient=True, disable=not bar_is_shown()) as progress:
        task = progress.add_task("", total=total)

        def show(count: int) -> None:
            nonlocal done
            done += count
            progress.update(task, completed=done)
            if not bar_is_shown() and pace.due():
                say(f"{done} of {total} frames")

        return follow_all(entered, clips, cache, workers, show)


def _kept(
    entered: Sequence[Contender], parts: Sequence[Excerpt], complete: Sequence[Excerpt], cache: Path
) -> tuple[Boxes, list[Excerpt], list[Excerpt]]:
    """The boxes that are there, and those of the clips that every contender has followed. DatasetError if there is none."""
    boxes: Boxes = {}
    chosen = []
    for clips in (complete, parts):
        found = kept(entered, clips, cache)
        chosen.append([clip for clip in clips if all((one.name, clip.name) in found for one in entered)])
        boxes = found | boxes  # a whole sequence's hold for its beginning, too
    if not chosen[1]:
        raise DatasetError(f"--no-follow: {cache} has no clip that all of {', '.join(one.name for one in entered)} have followed")
    return boxes, chosen[1], chosen[0]


def main(
    weights: Annotated[list[str] | None, typer.Argument(metavar="WEIGHTS ...", help="Presets' names or .safetensors files.")] = None,
    peer: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="A tracker of another package, as a Python file.")] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Sequences NAME/{img/*, groundtruth.txt}, or NAME.mp4 with NAME.txt or NAME.TARGET.txt; can be given again. "
            "Default: ../shared/data/eval_dev.",
        ),
    ] = None,
    scales: Annotated[str, typer.Option(help="By how much the frames' sides are divided.")] = "1,2,4",
    starts: Annotated[str, typer.Option(help="First frames, counted from 0.")] = "0,5,10",
    frames: Annotated[int, typer.Option(min=0, help="Of each clip at most; 0 for all.")] = 150,
    whole: Annotated[bool, typer.Option(help="Also whole sequences from their first frame.")] = True,
    dtype: Annotated[str, typer.Option(help="fp32, bf16, fp16 or int8.")] = "fp32",
    cache: Annotated[Path, typer.Option(help="Where to keep the boxes.")] = Path("out/selection"),
    workers: Annotated[int, typer.Option(min=1, help="Processes of one thread each.")] = 1,
    follow: Annotated[bool, typer.Option(help="--no-follow: compare on the clips that are kept for all of them already.")] = True,
    json_path: Annotated[str | None, typer.Option("--json", help="Also write JSON lines to a file, or to stdout (-).")] = None,
    store: Annotated[Path | None, typer.Option(metavar="DIR", help="The device's folder under benchmarks/results, to keep it.")] = None,
) -> None:
    """Compare weights by the public loop and say which would be shipped."""
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 150)
    entered = contenders(weights or [DEFAULT_MODEL], peer or [], dtype)
    sizes, firsts = numbers(scales, "--scales"), numbers(starts, "--starts", least=0)
    folders = data or [Path("../shared/data/eval_dev")]
    material = [sequence for _, sequence in together(folders, material_of)]
    parts = excerpts(material, sizes, firsts, frames or None)
    complete = excerpts(material, sizes, [0], None) if whole else []
    if not parts:
        raise DatasetError(
            f"{', '.join(map(str, folders))}: expected sequences with two frames and a box behind frame {min(firsts)}, found none"
        )
    asked = len(parts)
    if follow:
        boxes = _follow(entered, [*parts, *complete], cache, workers, console)
    else:
        boxes, parts, complete = _kept(entered, parts, complete, cache)
    rows = compare(entered, parts, complete, boxes)
    choice = figures.choose(rows, entered)
    name = "+".join(folder.name for folder in folders)
    about = {"folder": name, "dtype": dtype, "scales": sizes, "starts": firsts, "frames": frames, "clips": [len(parts), asked]}
    about |= {"jpeg_quality": QUALITY, **machine()}
    for kind, title in (
        ("starts", f"frames {starts}, at most {frames or 'all'} each, {len(parts)} of {asked} clips"),
        ("whole", "whole sequences"),
    ):
        if any(row.clips == kind for row in rows):
            console.print(terminal_table(f"AUC, public loop, {dtype}: {title}", *figures.table(rows, kind)))
    console.print(figures.verdict(choice), highlight=False, markup=False, soft_wrap=True)
    content = {
        "about": about,
        "contenders": [{"name": one.name, "peer": one.peer, "dtype": None if one.peer else dtype, "key": one.key} for one in entered],
        "choice": choice,
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    write_rows([{"kind": "choice", **choice, **about}, *({"kind": "row", **dataclasses.asdict(row)} for row in rows)], json_path)
    if store is not None:
        keep(store / f"selection-{name}-{dtype}", content, figures.markdown(rows, choice, about))


if __name__ == "__main__":
    run_function(main)
