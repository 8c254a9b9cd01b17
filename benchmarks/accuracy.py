"""What a faster mode costs: each dtype against a reference, on real sequences.

Two questions, kept apart. On the same search regions (those of the reference's run): how far apart are the boxes and the kept tokens of single
frames? Running freely: how far do the boxes drift apart, and does the AUC change?

    python -m benchmarks.accuracy DIR [--model M] [--device D] [--modes bf16,fp16] [--reference fp32] [--json FILE|-]
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from engine import postprocess
from engine.cli.exits import run_function
from engine.engines import make_runner
from engine.evaluation.layouts import open_dataset
from engine.evaluation.metrics import evaluate, iou
from engine.evaluation.sequences import Sequence
from engine.preprocess import Box
from engine.runner import Runner
from engine.state import NEVER_LOST
from engine.tracker import Tracker, TrackerConfig
from engine.weights import DEFAULT_MODEL, find_weights

PUBLIC_LOOP = TrackerConfig(thresholds=NEVER_LOST)  # every search is around the box before


@dataclasses.dataclass
class Findings:
    """One mode's figures, frame by frame, and the AUC of each sequence."""

    mode: str
    same_region_iou: list[float] = dataclasses.field(default_factory=list)
    kept_overlap: list[float] = dataclasses.field(default_factory=list)
    free_iou: list[float] = dataclasses.field(default_factory=list)
    auc: dict[str, float] = dataclasses.field(default_factory=dict)

    def row(self, reference: Findings) -> dict[str, Any]:
        """Means over frames; percent for AUC, shares for the rest; null where nothing was compared."""
        auc = float(np.mean(list(self.auc.values())))
        same = self is reference
        return {
            "mode": self.mode,
            "same_region_iou": None if same else float(np.mean(self.same_region_iou)),
            "same_region_iou_p1": None if same else float(np.quantile(self.same_region_iou, 0.01)),
            "kept_overlap": float(np.mean(self.kept_overlap)) if self.kept_overlap else None,
            "free_iou": None if same else float(np.mean(self.free_iou)),
            "AUC": auc,
            "AUC_difference": auc - float(np.mean(list(reference.auc.values()))),
            "frames": len(reference.free_iou),
        }


def compare(sequence: Sequence, reference: Runner, modes: dict[str, Runner], findings: dict[str, Findings], baseline: Findings) -> None:
    """Run one sequence in every mode and add what was found. The first box is the ground truth's."""
    start: Box = tuple(sequence.boxes[0].tolist())  # type: ignore[assignment]
    truth = sequence.truth()
    boxes: list[Box] = [start]
    trackers = {mode: Tracker(runner, config=PUBLIC_LOOP) for mode, runner in modes.items()}
    free: dict[str, list[Box]] = {mode: [start] for mode in modes}
    tracker, templates = Tracker(reference, config=PUBLIC_LOOP), {}
    for index, frame in enumerate(sequence.frames()):
        if index == 0:
            tracker.init(frame, start)
            for mode, runner in modes.items():
                trackers[mode].init(frame, start)
                templates[mode] = runner.encode_template(frame, start, True)
            continue
        result = tracker.update(frame)
        for mode, runner in modes.items():
            seen = runner.observe(frame, [boxes[-1]], [templates[mode]], True).targets[0]
            box = postprocess.clip(postprocess.to_frame(seen.box, seen.region_side, boxes[-1]), frame.shape[1], frame.shape[0])
            findings[mode].same_region_iou.append(_overlap(box, result.box))
            if seen.kept_tokens is not None and result.kept_tokens is not None:
                findings[mode].kept_overlap.append(len(np.intersect1d(seen.kept_tokens, result.kept_tokens)) / len(result.kept_tokens))
            free[mode].append(trackers[mode].update(frame).box)
            findings[mode].free_iou.append(_overlap(free[mode][-1], result.box))
        baseline.free_iou.append(1.0)
        boxes.append(result.box)
    baseline.auc[sequence.name] = evaluate("otb", truth, np.array(boxes)).values["AUC"]
    for mode in modes:
        findings[mode].auc[sequence.name] = evaluate("otb", truth, np.array(free[mode])).values["AUC"]


def _overlap(a: Box, b: Box) -> float:
    return float(iou(_row(a), _row(b))[0])


def _row(box: Box) -> NDArray[np.float64]:
    return np.array([box], dtype=np.float64)


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="What a mode costs")
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="left" if name == "mode" else "right")
    for row in rows:
        table.add_row(*(value if isinstance(value, str) else "" if value is None else f"{value:.4g}" for value in row.values()))
    return table


def _in_turn(sequences: tuple[Sequence, ...], console: Console) -> Iterator[Sequence]:
    with Progress(console=console, transient=True) as progress:
        yield from progress.track(sequences, description="sequences")


def main(
    folder: Annotated[Path, typer.Argument(help="Sequences with ground truth in any layout.")],
    model: Annotated[str, typer.Option(help="A preset's name or a .safetensors file.")] = DEFAULT_MODEL,
    device: Annotated[str, typer.Option()] = "cpu",
    modes: Annotated[str, typer.Option(help="dtypes to compare, with commas.")] = "bf16",
    reference: Annotated[str, typer.Option(help="The dtype to compare with.")] = "fp32",
    json_path: Annotated[str | None, typer.Option("--json", help="Also write JSON lines to a file, or to stdout (-).")] = None,
) -> None:
    """Compare modes on real sequences: boxes on the same regions, kept tokens, boxes and AUC running freely."""
    weights = find_weights(model)
    dataset = open_dataset(folder)
    runners = {mode: make_runner(weights, device, mode) for mode in modes.split(",")}
    base = make_runner(weights, device, reference, "reference")
    baseline, findings = Findings(f"{reference} (reference)"), {mode: Findings(mode) for mode in runners}
    console = Console(stderr=True)
    for sequence in _in_turn(tuple(sequence for sequence in dataset.sequences if sequence.scored), console):
        compare(sequence, base, runners, findings, baseline)
    rows = [found.row(baseline) for found in (baseline, *findings.values())]
    console.print(_table(rows))
    if json_path is not None:
        text = "".join(json.dumps({"model": weights.config.name, "device": device, **row}) + "\n" for row in rows)
        if json_path == "-":
            sys.stdout.write(text)
        else:
            Path(json_path).write_text(text)


if __name__ == "__main__":
    run_function(main)
