"""1080p frames through the device-resident loop: frames/s with frames in pinned memory and, apart, as NumPy arrays; the host's loop beside it.

A loop has a speed only if its boxes equal those of `Tracker` on the same engine. Frames come from memory: decoding is not part of it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import esat_kernels
from benchmarks.gpu.inputs import boxes, model_weights, pictures
from benchmarks.gpu.parts import write
from engine import Tracker, TrackerConfig
from engine.runners.gpu.loop import FrameLoop
from engine.runners.gpu.runner import GpuRunner
from engine.weights.io import Weights

CONFIG = TrackerConfig(loop="public")  # random weights follow nothing, and a loop that runs ahead searches later than a tracker
FRAMES, WARM_UP, DISTINCT = 600, 60, 12
ARRANGEMENTS: dict[str, tuple[int, ...]] = {"1 target": (1,), "4 targets": (4,), "4 streams": (1, 1, 1, 1), "16 targets": (16,)}


def _tracker(runner: GpuRunner) -> Tracker:
    return Tracker(runner, config=CONFIG)


def loop_error(runner: GpuRunner, frames: Sequence[NDArray[np.uint8]]) -> float:
    """The largest difference in pixels between the boxes of the loop and of `Tracker`."""
    tracker, loop, box = _tracker(runner), FrameLoop(runner, config=CONFIG), boxes(1)[0]
    tracker.init(frames[0], box)
    loop.init(0, frames[0], box)
    for frame in frames[1:]:
        loop.submit(frame)
    found = [result.targets[0].box for result in loop.results(wait=True)]
    expected = [tracker.update(frame).box for frame in frames[1:]]
    return float(np.abs(np.array(found) - np.array(expected)).max())


def throughput(
    runner: GpuRunner,
    targets: tuple[int, ...],
    arrays: Sequence[NDArray[np.uint8]],
    frames: Sequence[NDArray[np.uint8] | Tensor],
    count: int,
    warm_up: int,
) -> float:
    """Frames of each video stream in a second, over `count` frames, results read on the way."""
    loop = FrameLoop(runner, targets, config=CONFIG)
    for slot, box in enumerate(boxes(sum(targets))):
        loop.init(slot, arrays[0], box)
    for index in range(warm_up):
        loop.submit(*[frames[index % len(frames)]] * len(targets))
    loop.results(wait=True)
    start = time.perf_counter()
    for index in range(count):
        loop.submit(*[frames[index % len(frames)]] * len(targets))
        loop.results()
    loop.results(wait=True)
    return count / (time.perf_counter() - start)


def host_loop(runner: GpuRunner, arrays: Sequence[NDArray[np.uint8]], count: int, warm_up: int) -> float:
    """Frames in a second through `Tracker.update`, which waits for every frame."""
    tracker = _tracker(runner)
    tracker.init(arrays[0], boxes(1)[0])
    for index in range(warm_up):
        tracker.update(arrays[index % len(arrays)])
    start = time.perf_counter()
    for index in range(count):
        tracker.update(arrays[index % len(arrays)])
    return count / (time.perf_counter() - start)


def measure(
    weights: Weights,
    backend: str,
    device: str = "cuda",
    dtype: str = "bf16",
    count: int = FRAMES,
    warm_up: int = WARM_UP,
    distinct: int = DISTINCT,
    allowed_px: float = 0.01,
) -> list[dict[str, Any]]:
    """The rows of one model and backend. A loop whose boxes are further than `allowed_px` from those of `Tracker` gets no speed."""
    runner = GpuRunner(weights, device, dtype, backend)
    arrays = pictures(distinct)
    pinned = [torch.from_numpy(array).pin_memory() if device != "cpu" else torch.from_numpy(array) for array in arrays]
    error = loop_error(runner, arrays)
    common = {"impl": "ours", "model": weights.config.name, "backend": backend, "dtype": dtype, "scope": "pipeline", "frame": "1920x1080"}
    common |= {"box_error_px": error, "ok": error <= allowed_px}
    if not common["ok"]:
        return [common]
    rows = [{**common, "targets": "1 target", "frames": "NumPy, Tracker.update", "fps": host_loop(runner, arrays, count // 2, warm_up)}]
    for label, targets in ARRANGEMENTS.items():
        rounds = max(count // sum(targets), 2)
        rows.append({**common, "targets": label, "frames": "pinned", "fps": throughput(runner, targets, arrays, pinned, rounds, warm_up)})
        if label == "1 target":
            rows.append(
                {**common, "targets": label, "frames": "NumPy", "fps": throughput(runner, targets, arrays, arrays, rounds, warm_up)}
            )
    return rows


def main(output: Path) -> int:
    backends = [name for name in ("cuda", "triton") if esat_kernels.backends()[name] is None]
    rows: list[dict[str, Any]] = []
    for name in ("esat-384", "esat-s-256"):
        for backend in backends:
            rows += measure(model_weights(name), backend)
            write(output, {"ok": all(row["ok"] for row in rows), "rows": rows})
    for row in rows:
        print(f"{row['model']} {row['backend']}", f"{row['targets']}, {row['frames']}: {row['fps']:.0f} frames/s" if row["ok"] else row)
    good = bool(rows) and all(row["ok"] for row in rows)
    write(output, {"ok": good, "rows": rows})
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
