"""Weights side by side by a loop that is put back on the target every so many frames: what is lost by chance costs a stretch, not the rest.

    python -m benchmarks.anchored WEIGHTS ... --data DIR [--data DIR] [--every 25] [--sizes 1,2,4] [--dtype fp32] [--workers 2]
        [--records out/anchored] [--json FILE|-] [--store DIR]

Over whole clips two files of weights differ mostly by the clips that one of them happens to hold. Here the public loop starts at the truth again
every `--every` frames, with the first frame's template, as VOT's anchors start a tracker again (Kristan et al. 2020). So this says how well a
target is followed, and how often it is lost, but not whether a tracker holds on for thousands of frames. Differences are to the first file, paired
over targets. IoUs are kept in --records by what they depend on: the weights, dtype, set of instructions, version of this package and `--every`, and
the clip's frames and truth. What has been tracked is not tracked again.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress

from benchmarks.harness import distinct, keep, machine, mean_and_error, numbers, write_rows
from benchmarks.loss.clips import Job, together
from benchmarks.loss.figures import auc_of, by_target
from benchmarks.selection.runs import Contender
from engine.cli.exits import run_function
from engine.cli.lines import bar_is_shown
from engine.datasets.text import Floats
from engine.evaluation.metrics import iou
from engine.evaluation.tables import markdown_table, terminal_table
from engine.evaluation.tracking import fingerprint
from engine.files import PendingFile
from engine.runners.protocol import Runner
from engine.tracking.tracker import open_runner
from engine.weights.shipped import name_of
from engine.workers import use_threads

_MISSED, _LAST = 0.1, 5  # a stretch is lost whose last known frames, at most so many, have no higher IoU

Overlaps = Mapping[str, Floats]  # by clip


def overlaps_of(job: Job, runner: Runner, every: int) -> Floats:
    """IoU [n - 1] with the truth in every frame but the first, NaN where there is none."""
    clip = job.clip()
    box = tuple(clip.boxes[0].tolist())
    template = runner.encode_template(clip.frames[0], box, True)
    boxes = []
    for index, frame in enumerate(clip.frames[1:]):
        if index % every == 0 and np.isfinite(clip.boxes[index]).all():
            box = tuple(clip.boxes[index].tolist())
        box = runner.observe(frame, [box], [template], True).targets[0].box
        boxes.append(box)
    there = np.isfinite(clip.boxes[1:]).all(axis=1)
    return np.where(there, iou(np.array(boxes), np.nan_to_num(clip.boxes[1:])), np.nan)


def auc(overlaps: Floats) -> float:
    """Of the frames with a truth, in percent."""
    return auc_of(overlaps[np.isfinite(overlaps)])


def stretches(overlaps: Floats, every: int) -> tuple[int, int]:
    """How many stretches have so many frames with a truth that it can be told, and how many of them are lost."""
    known = [part[np.isfinite(part)] for part in np.split(overlaps, range(every, len(overlaps), every))]
    told = [part for part in known if len(part) >= _LAST]
    return len(told), sum(bool(part[-_LAST:].max() < _MISSED) for part in told)


def rows_of(found: Mapping[str, Overlaps], folders: Mapping[str, str], every: int) -> list[dict[str, Any]]:
    """A row for each of the weights; `folders`: of each clip, NAME@SHRINK."""
    groups = {clip: f"{folder} 1/{clip.rsplit('@', 1)[1]}" for clip, folder in folders.items()}
    first: dict[str, float] = {}
    rows = []
    for name, overlaps in found.items():
        scores = {clip: auc(values) for clip, values in overlaps.items()}
        counts = [stretches(values, every) for values in overlaps.values()]
        first = first or scores
        differences = by_target({clip: score - first[clip] for clip, score in scores.items()})
        difference, error = mean_and_error(np.array([np.mean(values) for values in differences]))
        rows.append(
            {
                "weights": name,
                "AUC": {group: float(np.mean([scores[clip] for clip in scores if groups[clip] == group])) for group in groups.values()},
                "mean": float(np.mean(list(scores.values()))),
                "clips": len(scores),
                "stretches": sum(told for told, _ in counts),
                "lost": sum(lost for _, lost in counts),
                "difference": difference,
                "error": error,
                "better": sum(scores[clip] > first[clip] for clip in scores),
                "by_clip": scores,
            }
        )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and cells."""
    groups = list(rows[0]["AUC"])
    cells = []
    for row in rows:
        error = "" if row["error"] is None else f" +- {row['error']:.1f}"
        change = "" if row is rows[0] else f"{row['difference']:+.1f}{error}, {row['better']} of {row['clips']} better"
        scores = [f"{row['AUC'][group]:.1f}" for group in groups]
        cells.append([row["weights"], *scores, f"{row['mean']:.1f}", f"{row['lost']} of {row['stretches']}", change])
    return ["weights", *groups, "mean", "lost", "to the first"], cells


def markdown(rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> str:
    """The report."""
    text = (
        f"AUC of the public loop, put back on the target every {about['every']} frames, by folder and size of the frames, {about['dtype']}, on "
        f"{about['cpu']}; stretches of {about['every']} frames that end without the target; difference to the first row, paired over targets, and "
        "its standard error."
    )
    return f"# Put back on the target\n\n{text}\n\n{markdown_table(*table(rows))}\n"


class _Worker:
    runner: Runner


def track(todo: Sequence[Job], source: str, dtype: str, every: int, records: Path, workers: int, on_done: Callable[[], None]) -> Overlaps:
    """All clips, in `workers` processes of one thread each."""
    folder = records / f"{Contender(name_of(source), source, dtype=dtype).key}-{every}"
    found = {}
    context = multiprocessing.get_context("spawn")  # forking a process that has run PyTorch's threads may hang
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(source, dtype)) as pool:
        for job, values in zip(todo, pool.map(_run, todo, [folder] * len(todo), [every] * len(todo)), strict=True):
            found[job.name] = np.array(values, float)
            on_done()
    return found


def _start(source: str, dtype: str) -> None:
    use_threads()
    _Worker.runner = open_runner(source, "cpu", dtype, "auto")


def _run(job: Job, folder: Path, every: int) -> list[float | None]:
    path, mark = folder / f"{job.name}.json", _mark(job)
    values = _kept(path, mark)
    if values is None:
        values = [None if np.isnan(value) else value for value in overlaps_of(job, _Worker.runner, every).tolist()]
        with PendingFile(path) as pending:
            pending.partial.write_text(json.dumps({"mark": mark, "overlaps": values}))
    return values


def _mark(job: Job) -> str:
    """Changes with what the clip shows and with the boxes that its frames are compared with, so with their number too."""
    text = json.dumps([fingerprint(job.target), job.name, job.target.boxes[: job.frames].tolist()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _kept(path: Path, mark: str) -> list[float | None] | None:
    """A clip's overlaps, if they are there whole and of this mark."""
    try:
        content = json.loads(path.read_text())
        return content["overlaps"] if content["mark"] == mark else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def main(
    weights: Annotated[list[str], typer.Argument(metavar="WEIGHTS ...", help="Presets' names or .safetensors files.")],
    data: Annotated[list[Path], typer.Option(metavar="DIR", help="Folder of sequences with ground truth, or of clips.")],
    every: Annotated[int, typer.Option(min=5, help="Frames between two starts at the truth.")] = 25,
    sizes: Annotated[str, typer.Option(help="By how much the frames are shrunk.")] = "1,2,4",
    frames: Annotated[int, typer.Option(min=2, help="Frames of each sequence at most.")] = 10_000,
    dtype: Annotated[str, typer.Option(help="fp32, bf16 or int8.")] = "fp32",
    workers: Annotated[int, typer.Option(min=1, help="Processes of one thread each.")] = 2,
    records: Annotated[Path, typer.Option(help="Where to keep what was tracked.")] = Path("out/anchored"),
    json_path: Annotated[str | None, typer.Option("--json", help="Also write JSON lines to a file, or to stdout (-).")] = None,
    store: Annotated[Path | None, typer.Option(metavar="DIR", help="The device's folder under benchmarks/results, to keep it.")] = None,
) -> None:
    """Compare weights stretch by stretch."""
    names, shrinks = distinct([name_of(source) for source in weights]), numbers(sizes, "--sizes")
    known = [(folder.name, target) for folder, target in together(data) if np.isfinite(target.boxes[0]).all()]
    todo = [Job(target, frames, shrink) for _, target in known for shrink in shrinks]
    folders = {f"{target.name}@{shrink}": name for name, target in known for shrink in shrinks}
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 150)
    found = {}
    with Progress(console=console, transient=True, disable=not bar_is_shown()) as progress:
        task = progress.add_task("clips", total=len(todo) * len(weights))
        for name, source in zip(names, weights, strict=True):
            found[name] = track(todo, source, dtype, every, records, workers, lambda: progress.advance(task))
            if not bar_is_shown():
                console.print(f"{name}: {len(todo)} clips", highlight=False)
    rows = rows_of(found, folders, every)
    about = {
        "every": every,
        "dtype": dtype,
        "data": [folder.name for folder in data],
        "sizes": shrinks,
        "frames_at_most": frames,
        **machine(),
    }
    console.print(terminal_table("Put back on the target", *table(rows)))
    write_rows([{"kind": "anchored", **row, **about} for row in rows], json_path)
    if store is not None:
        keep(store / "anchored", {"about": about, "rows": rows}, markdown(rows, about))


if __name__ == "__main__":
    run_function(main)
