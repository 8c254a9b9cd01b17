"""What a faster mode costs: dtypes against each other, on real sequences.

Two questions, kept apart. On the same search regions (those of the reference's run): how far apart are the boxes and the kept tokens of single
frames? Running freely: how far do the boxes drift apart, and does the AUC change?

    python -m benchmarks.accuracy DIR [--model M] [--device D] [--modes bf16,fp16] [--reference fp32] [--frames 30] [--json FILE|-] [--store DIR]

fp8 on a CPU is an emulation of the GPU engine's, and its row says so.

`--store` keeps rows, a table and a picture as accuracy-MODEL[-Nframes].{json,md,png}. PyTorch's fp16 on a CPU is about fifteen times slower than
its bf16, so by default only the first 30 frames of each sequence are followed; `--frames 0` takes all.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from benchmarks.harness import machine, write_rows
from engine.boxes import Box
from engine.cli.exits import run_function
from engine.datasets.layouts import open_dataset
from engine.datasets.sequences import Sequence
from engine.datasets.text import Floats
from engine.evaluation.metrics import Truth, evaluate, iou
from engine.evaluation.tables import markdown_table, terminal_table
from engine.runners.choice import make_runner
from engine.runners.gpu.runner import GpuRunner
from engine.runners.protocol import Runner
from engine.tracking.tracker import Tracker, TrackerConfig
from engine.weights import DEFAULT_MODEL, Weights, find_weights

Row = dict[str, Any]
PUBLIC_LOOP = TrackerConfig(loop="public")  # every search is around the box before


@dataclasses.dataclass
class Findings:
    """One mode's boxes and kept tokens frame by frame, and its AUC on each sequence, percent."""

    mode: str
    seen: list[Box] = dataclasses.field(default_factory=list)  # on the reference's search regions
    kept: list[NDArray[np.int64] | None] = dataclasses.field(default_factory=list)  # there too
    free: list[Box] = dataclasses.field(default_factory=list)  # running freely
    auc: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def mean_auc(self) -> float:
        return float(np.mean(list(self.auc.values())))

    def row(self, other: Findings | None) -> Row:
        """This mode against another, None for the reference itself: means over frames as shares, AUC in percent, null where nothing was compared."""
        figures: Row = dict.fromkeys(("same_region_iou", "same_region_iou_p1", "kept_overlap", "free_iou"))
        if other is not None:
            same, free = iou(_rows(self.seen), _rows(other.seen)), iou(_rows(self.free), _rows(other.free))
            shares = [_share(a, b) for a, b in zip(self.kept, other.kept, strict=True) if a is not None and b is not None]
            figures = {
                "same_region_iou": float(same.mean()),
                "same_region_iou_p1": float(np.quantile(same, 0.01)),
                "kept_overlap": float(np.mean(shares)) if shares else None,
                "free_iou": float(free.mean()),
            }
        return {
            "mode": self.mode,
            "against": None if other is None else other.mode,
            **figures,
            "AUC": self.mean_auc,
            "AUC_difference": 0.0 if other is None else self.mean_auc - other.mean_auc,
            "frames": len(self.free),
        }


def compare(sequence: Sequence, runners: list[Runner], findings: list[Findings], frames: int | None) -> None:
    """Run a sequence, or its first `frames` frames, in every mode and add what was found. The first runner is the reference, whose search
    regions all share; the first box is the ground truth's."""
    start: Box = tuple(sequence.boxes[0].tolist())  # type: ignore[assignment]
    trackers = [Tracker(runner, config=PUBLIC_LOOP) for runner in runners]
    paths: list[list[Box]] = [[start] for _ in runners]
    templates: list[Any] = []
    for index, frame in enumerate(itertools.islice(sequence.frames(), frames)):
        if index == 0:
            for tracker in trackers:
                tracker.init(frame, start)
            templates = [runner.encode_template(frame, start, True) for runner in runners]
            continue
        region = paths[0][-1]
        for tracker, path, found, runner, template in zip(trackers, paths, findings, runners, templates, strict=True):
            result = tracker.update(frame)
            path.append(result.box)
            found.free.append(result.box)
            if runner is runners[0]:
                found.seen.append(result.box)
                found.kept.append(result.kept_tokens)
                continue
            seen = runner.observe(frame, [region], [template], True).targets[0]
            found.seen.append(seen.box)
            found.kept.append(seen.kept_tokens)
    truth = Truth(sequence.name, sequence.boxes[: len(paths[0])], sequence.image_size())
    for path, found in zip(paths, findings, strict=True):
        found.auc[sequence.name] = evaluate("otb", truth, _rows(path)).values["AUC"]


def runner_in(weights: Weights, device: str, mode: str) -> tuple[str, Runner]:
    """A mode as its row calls it, and its runner. fp8 on a CPU is emulated: the GPU engine's arithmetic by its reference kernels, whose sums are
    float32 throughout; that takes seconds a frame.
    """
    if mode == "fp8" and device == "cpu":
        return "fp8 (emulated)", GpuRunner(weights, device, mode, "reference")
    return mode, make_runner(weights, device, mode)


def rows_of(findings: list[Findings]) -> list[Row]:
    """The reference alone, then every mode against it and against each mode before."""
    return [findings[0].row(None), *(after.row(before) for before, after in itertools.combinations(findings, 2))]


def _share(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    return len(np.intersect1d(a, b)) / len(b)


def _rows(boxes: list[Box]) -> Floats:
    return np.array(boxes, dtype=np.float64)


def table(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Head and cells of the table of modes."""
    head = [
        "mode",
        "against",
        "IoU, same regions",
        "its 1st percentile",
        "kept tokens in common",
        "IoU, running freely",
        "AUC",
        "difference",
    ]
    places = dict(same_region_iou=4, same_region_iou_p1=3, kept_overlap=4, free_iou=3, AUC=2, AUC_difference=2)
    cells = [
        [row["mode"], row["against"] or "", *("" if row[name] is None else f"{row[name]:.{digits}f}" for name, digits in places.items())]
        for row in rows
    ]
    return head, cells


def plot(findings: list[Findings], path: Path) -> None:
    """Left: share of frames whose box differs from the reference's by more than 1 - IoU, on the same regions. Right: AUC of each sequence."""
    reference, *modes = findings
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.4))
    for index, found in enumerate(modes, 1):
        gap = np.sort(1 - iou(_rows(found.seen), _rows(reference.seen)))
        left.plot(np.maximum(gap, 1e-6), 1 - np.arange(len(gap)) / len(gap), label=found.mode, linewidth=2, color=f"C{index}")
    left.set(xscale="log", xlim=(1e-4, 1), ylim=(0, 1.02), xlabel="1 - IoU with the reference's box", ylabel="share of frames beyond")
    left.set_title(f"same search regions, {len(reference.free)} frames", fontsize=10)
    left.grid(alpha=0.3)
    left.legend()
    names, width = list(reference.auc), 0.8 / len(findings)
    for index, found in enumerate(findings):
        label = f"{found.mode} [{found.mean_auc:.1f}]"
        right.bar(
            np.arange(len(names)) + (index - (len(findings) - 1) / 2) * width, found.auc.values(), width, label=label, color=f"C{index}"
        )
    right.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
    right.set(ylabel="AUC, percent", ylim=(0, 100))
    right.set_title("running freely", fontsize=10)
    right.grid(alpha=0.3, axis="y")
    right.legend(ncols=len(findings), fontsize=8)
    figure.savefig(path, dpi=110)


def _store(folder: Path, name: str, about: Row, findings: list[Findings], rows: list[Row]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    by_sequence = {found.mode: found.auc for found in findings}
    content = {"about": about, "rows": rows, "auc_by_sequence": by_sequence}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    plot(findings, folder / f"{name}.png")
    extent = "all frames" if about["frames_a_sequence"] is None else f"the first {about['frames_a_sequence']} frames of each sequence"
    note = (
        f"{about['model']} on {about['device']} ({about['cpu']}, {about['isa']}), {about['sequences']} sequences, {extent}. "
        "Same regions: both modes look at the search regions of the reference's run. AUC: otb preset, percent."
    )
    text = f"# What a mode costs\n\n{note}\n\n{markdown_table(*table(rows))}\n![boxes and AUC]({name}.png)\n"
    (folder / f"{name}.md").write_text(text)


def _in_turn(sequences: list[Sequence], console: Console) -> Iterator[Sequence]:
    with Progress(console=console, transient=True) as progress:
        yield from progress.track(sequences, description="sequences")


def main(
    folder: Annotated[Path, typer.Argument(help="Sequences with ground truth in any layout.")],
    model: Annotated[str, typer.Option(help="A preset's name or a .safetensors file.")] = DEFAULT_MODEL,
    device: Annotated[str, typer.Option()] = "cpu",
    modes: Annotated[str, typer.Option(help="dtypes to compare, with commas.")] = "bf16,fp16",
    reference: Annotated[str, typer.Option(help="The dtype to compare with.")] = "fp32",
    frames: Annotated[int, typer.Option(min=0, help="Of each sequence, from its start; 0 for all.")] = 30,
    json_path: Annotated[str | None, typer.Option("--json", help="Also write JSON lines to a file, or to stdout (-).")] = None,
    store: Annotated[Path | None, typer.Option(metavar="DIR", help="The device's folder under benchmarks/results, to keep it.")] = None,
) -> None:
    """Compare modes on real sequences: boxes on the same regions, kept tokens, boxes and AUC running freely."""
    weights = find_weights(model)
    sequences = [sequence for sequence in open_dataset(folder).sequences if sequence.scored]
    names = modes.split(",")
    found = [runner_in(weights, device, mode) for mode in names]
    runners = [make_runner(weights, device, reference, "reference"), *(runner for _, runner in found)]
    findings = [Findings(f"{reference} (reference)"), *(Findings(mode) for mode, _ in found)]
    console = Console(stderr=True)
    for sequence in _in_turn(sequences, console):
        compare(sequence, runners, findings, frames or None)
    rows = rows_of(findings)
    console.print(terminal_table("What a mode costs", *table(rows)))
    about = {"model": weights.config.name, "device": device}
    write_rows([{**about, **row} for row in rows], json_path)
    if store is not None:
        name = f"accuracy-{weights.config.name}" + (f"-{frames}frames" if frames else "")
        about |= {"sequences": len(sequences), "frames_a_sequence": frames or None, **machine()}
        _store(store, name, about, findings, rows)


if __name__ == "__main__":
    run_function(main)
