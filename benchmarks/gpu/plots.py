"""Pictures of what the other parts measured, from their files: attention by tokens, a frame by batch, a frame's stages, the pipeline."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.gpu.parts import write


def _rows(folder: Path, part: str, key: str = "rows") -> Any:
    """What a part has written; nothing where it did not run."""
    path = folder / f"gpu_{part}.json"
    return json.loads(path.read_text()).get(key, []) if path.is_file() else []


def _lines(axis: Axes, series: dict[str, list[tuple[float, float]]]) -> None:
    for name, points in series.items():
        axis.plot(*zip(*sorted(points), strict=True), marker="o", label=name, linewidth=2.5 if name.startswith("ours") else 1)
    axis.grid(alpha=0.3, which="both")
    axis.legend(fontsize=7)


def _save(figure: Figure, path: Path) -> str:
    figure.savefig(path, dpi=110)
    return path.name


def attention(folder: Path) -> str | None:
    """Microseconds over tokens."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in _rows(folder, "attention"):
        if row.get("median_us") and "rows=" not in str(row["backend"]):
            series.setdefault(":".join(filter(None, (row["impl"], row["backend"]))), []).append((row["tokens"], row["median_us"]))
    if not series:
        return None
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    _lines(axis, series)
    axis.set(xlabel="tokens", ylabel="median, us", yscale="log", title="attention, 12 heads of 64, bf16")
    return _save(figure, folder / "gpu_attention.png")


def frame(folder: Path) -> str | None:
    """Milliseconds over the batch, and the stages of one frame. Batch 1 is measured again with the larger ones; that counts."""
    series: dict[str, dict[float, float]] = {}
    for row in (*_rows(folder, "frame"), *_rows(folder, "frames")):
        if row["model"] == "esat-384" and row.get("median_ms") and row["mode"] == "graph":
            series.setdefault(f"{row['impl']} {row['backend']}, {row['scope']}", {})[row["batch"]] = row["median_ms"]
    if not series:
        return None
    profile = _rows(folder, "frame", "stages_us") or {}
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _lines(left, {name: list(points.items()) for name, points in series.items()})
    left.set(xlabel="targets in a frame", ylabel="median, ms", xscale="log", yscale="log", title="esat-384, bf16, one graph")
    for backend, found in profile.items():
        named = {stage: value for stage, value in found.items() if not stage.startswith("kernel: ")}
        right.barh([f"{stage} ({backend})" for stage in named], list(named.values()))
    right.set(xlabel="us of kernels in one eager frame", title="stages")
    return _save(figure, folder / "gpu_frame.png")


def pipeline(folder: Path) -> str | None:
    """Frames/s of 1080p video."""
    rows = [row for row in _rows(folder, "pipeline") if row.get("fps")]
    if not rows:
        return None
    figure = Figure(figsize=(8, 0.4 * len(rows) + 1), layout="constrained")
    axis = figure.subplots()
    axis.barh([f"{row['model']} {row['backend']}, {row['targets']}, {row['frames']}" for row in rows], [row["fps"] for row in rows])
    axis.invert_yaxis()
    axis.set(xlabel="frames/s", title="1080p frames, upload to result")
    axis.tick_params(labelsize=7)
    return _save(figure, folder / "gpu_pipeline.png")


def main(output: Path) -> int:
    made = [name for name in (draw(output.parent) for draw in (attention, frame, pipeline)) if name is not None]
    print(", ".join(made) or "nothing has been measured")
    write(output, {"ok": bool(made), "files": made})
    return 0 if made else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
