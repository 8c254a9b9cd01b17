"""What a larger search region costs and gains: mean overlap at several search factors, on all frames and on every n-th (faster targets).

python -m benchmarks.search_factor DIR [--factors 4,5,6] [--strides 1,4] [--frames 200] [--sequences a,b] [--json FILE|-]
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.harness import machine, numbers, write_rows
from engine.cli.exits import run_function
from engine.datasets.layouts import open_dataset
from engine.datasets.sequences import Sequence
from engine.errors import ConfigError
from engine.evaluation.metrics import iou
from engine.tracking.tracker import Tracker, TrackerConfig
from engine.weights import DEFAULT_MODEL


def overlap(tracker: Tracker, sequence: Sequence, stride: int, frames: int) -> float:
    """Mean IoU over the frames 0, stride, 2 stride, ... among the first `frames`, the first one apart."""
    found, truth = [], []
    for index, image in enumerate(sequence.frames()):
        if index >= min(frames, len(sequence.boxes)):
            break
        if index == 0:
            tracker.init(image, sequence.boxes[0])
        elif index % stride == 0 and (sequence.boxes[index, 2:] > 0).all():
            found.append(tracker.update(image).box)
            truth.append(sequence.boxes[index])
    return float(iou(np.array(found), np.array(truth)).mean())


def main(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A data set, as for `esat eval`.")],
    model: str = DEFAULT_MODEL,
    device: str = "auto",
    dtype: str = "auto",
    factors: Annotated[str, typer.Option(help="Search factors.")] = "4,5,6",
    strides: Annotated[str, typer.Option(help="1: all frames; n: every n-th.")] = "1,4",
    frames: Annotated[int, typer.Option(min=2, help="Of each sequence.")] = 200,
    sequences: Annotated[str | None, typer.Option(help="Only these, with commas.")] = None,
    json_output: Annotated[str | None, typer.Option("--json", help="JSON lines; - for standard output.")] = None,
) -> None:
    """Mean overlap with the ground truth at each search factor and stride."""
    chosen = [entry for entry in open_dataset(directory, "auto").sequences if sequences is None or entry.name in sequences.split(",")]
    if not chosen:
        raise ConfigError(f"none of the sequences {sequences} is in {directory}")
    rows = []
    for factor in numbers(factors, "--factors"):
        tracker = Tracker(model, device, dtype, TrackerConfig(search_factor=float(factor)))
        for stride in numbers(strides, "--strides"):
            each = {entry.name: round(100 * overlap(tracker, entry, stride, frames), 1) for entry in chosen}
            row = {"search_factor": factor, "stride": stride, "frames": frames, "mean_iou": round(float(np.mean(list(each.values()))), 1)}
            about = {"model": tracker.model_config.name, "dtype": tracker.runner.dtype, "device": tracker.runner.device}
            rows.append({**row, "sequences": each, **about, "machine": machine()})
            typer.echo(f"factor {factor}, every {stride}: {row['mean_iou']}  {each}", err=True)
    write_rows(rows, json_output)


if __name__ == "__main__":
    run_function(main)
