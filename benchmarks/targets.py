"""What several targets in one video cost: one `MultiTracker` against as many separate trackers that share the weights, interleaved.

    python -m benchmarks.targets [--model M] [--targets 1,2,4,8,16,32] [--device cpu] [--json FILE|-] [--plot FILE]

The frame is 1920 x 1080. Before anything is timed, the boxes of both ways must agree within 0.01 px in fp32, 1 px in other dtypes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks import harness
from engine.boxes import Box
from engine.cli.exits import run_function
from engine.runners.protocol import Runner
from engine.tracking.multi import MultiTracker
from engine.tracking.tracker import Tracker, open_runner
from engine.weights import DEFAULT_MODEL

_SIZE = (1920, 1080)
_TOLERANCE_PX = {"fp32": 0.01}


def _boxes(count: int) -> list[Box]:
    random = np.random.default_rng(count)
    return [(float(random.uniform(100, 1700)), float(random.uniform(100, 900)), 80.0, 60.0) for _ in range(count)]


def _frames() -> list[np.ndarray]:
    """Two smooth pictures, so that boxes depend on more than noise."""
    import cv2

    random = np.random.default_rng(0)
    return [cv2.resize(random.integers(0, 256, (68, 120, 3), np.uint8), _SIZE, interpolation=cv2.INTER_CUBIC) for _ in range(2)]


def measure(runner: Runner, count: int, seconds: float) -> dict[str, Any]:
    """One row: milliseconds of a frame with `count` targets, together and separately."""
    first, second = _frames()
    several = MultiTracker(runner)
    alone = [Tracker(runner) for _ in range(count)]
    for tracker, box in zip(alone, _boxes(count), strict=True):
        several.add(first, box)
        tracker.init(first, box)
    together = several.update(second)
    difference = max(
        float(np.abs(np.subtract(result.box, tracker.update(second).box)).max())
        for result, tracker in zip(together.values(), alone, strict=True)
    )
    runs = {"together": lambda: several.update(second), "separate": lambda: [tracker.update(second) for tracker in alone]}
    timings = harness.interleaved(runs, seconds, warm_up=1, least_rounds=3)
    ours, theirs = timings["together"].median_us / 1e3, timings["separate"].median_us / 1e3
    return {
        "targets": count,
        "median_ms": round(ours, 3),
        "separate_ms": round(theirs, 3),
        "ratio": round(ours / theirs, 4),
        "ms_per_target": round(ours / count, 3),
        "rounds": timings["together"].calls,
        "max_difference_px": difference,
        "ok": difference <= _TOLERANCE_PX.get(runner.dtype, 1.0),
    }


def draw(rows: list[dict[str, Any]], title: str) -> Figure:
    """Milliseconds a frame over the number of targets, both ways."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    counts = [row["targets"] for row in rows]
    axes.plot(counts, [row["median_ms"] for row in rows], "o-", label="one MultiTracker")
    axes.plot(counts, [row["separate_ms"] for row in rows], "s--", label="separate trackers")
    axes.set(xlabel="targets", ylabel="milliseconds a frame", title=title, xscale="log", yscale="log", xticks=counts, xticklabels=counts)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def main(
    model: Annotated[str, typer.Option(help="A preset's name or a .safetensors file.")] = DEFAULT_MODEL,
    targets: Annotated[str, typer.Option(help="Numbers of targets, with commas.")] = "1,2,4,8,16,32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16 or int8.")] = "auto",
    seconds: Annotated[float, typer.Option(help="For each number of targets; at least three rounds are run.")] = 4.0,
    json_path: Annotated[str | None, typer.Option("--json", help="Also write JSON lines to a file, or to stdout (-).")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw the curves to this file.")] = None,
) -> None:
    """Time one MultiTracker against separate trackers. Exit code 1 if their boxes differ."""
    runner, console = open_runner(model, device, dtype, "auto"), Console(stderr=True)
    about = {"impl": "ours", "model": runner.config.name, "device": runner.device, "dtype": runner.dtype}
    rows = []
    for count in harness.numbers(targets, "--targets"):
        rows.append({**about, **measure(runner, count, seconds), **harness.machine()})
        row = rows[-1]
        console.print(
            f"{count:3d} targets: {row['median_ms']:8.1f} ms, separate {row['separate_ms']:8.1f} ms, ratio {row['ratio']:.3f}, "
            f"boxes within {row['max_difference_px']:.2g} px",
            highlight=False,
        )
    harness.write_rows(rows, json_path)
    if plot is not None:
        draw(rows, f"{runner.config.name}, {runner.dtype} on {runner.device}").savefig(plot, dpi=120)
    raise typer.Exit(0 if all(row["ok"] for row in rows) else 1)


if __name__ == "__main__":
    run_function(main)
