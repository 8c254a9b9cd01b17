"""Memory of a long run: thousands of frames on one tracker, with the resident size at start, after warm-up and at the end.

python -m benchmarks.memory [--model esat-s-256] [--frames 10000] [--store DIR]
"""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.harness import machine
from conformance import golden
from engine import Tracker
from engine.cli.exits import run_function
from engine.config import preset
from engine.runners.choice import make_runner
from engine.weights.io import Weights

_WARM_UP = 50


def resident_mb() -> float:
    """The process's resident size now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def measure(weights: Weights, frames: int, dtype: str) -> dict[str, Any]:
    """Track an object through `frames` frames of 320 x 240 and watch the resident size, in MB."""
    row: dict[str, Any] = {"model": weights.config.name, "frames": frames, "start_mb": resident_mb()}
    runner = make_runner(weights, "cpu", dtype)
    tracker = Tracker(runner)
    clip = np.random.default_rng(1).integers(0, 256, (8, 240, 320, 3), dtype=np.uint8)
    tracker.init(clip[0], (140, 100, 40, 30))
    for index in range(frames):
        if index == min(_WARM_UP, frames - 1):
            row["warm_mb"] = resident_mb()
        tracker.update(clip[index % len(clip)])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return row | {"end_mb": resident_mb(), "peak_mb": peak, "dtype": runner.dtype, "runner": type(runner).__name__}


def main(
    model: Annotated[str, typer.Option(help="A preset.")] = "esat-s-256",
    frames: Annotated[int, typer.Option(min=2, help="How many.")] = 10_000,
    dtype: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    store: Annotated[Path | None, typer.Option(metavar="DIR", help="The device's folder under benchmarks/results, to keep it.")] = None,
) -> None:
    """Print the row, and keep it as memory.json."""
    row = measure(golden.draw_weights(preset(model), 3, 1.0, Path(model)), frames, dtype)
    typer.echo(json.dumps(row))
    if store is not None:
        store.mkdir(parents=True, exist_ok=True)
        (store / "memory.json").write_text(json.dumps({"about": machine(), "row": row}, indent=1) + "\n")


if __name__ == "__main__":
    run_function(main)
