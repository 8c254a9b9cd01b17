"""Does anything grow? A very long run, with memory and file handles watched.

    python -m benchmarks.soak [--frames 100000] [--scopes tracker,session] [--json FILE|-]

tracker: `Tracker.update` on frames in memory whose size changes on the way, with a bad frame and a new target now and then.
session: what `esat track` does: a video file through the reader thread into the tracker, JSON and text files behind it.
The network is the smallest that has all parts, so that the run takes minutes. After a warm-up of a tenth of the run, memory may grow
by 5 MB and the number of open file handles not at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import av
import numpy as np
import torch
import typer
from rich.console import Console

from benchmarks import harness
from engine.cli.exits import run_function
from engine.clips.given import Given
from engine.clips.session import Session, follow
from engine.config import ModelConfig
from engine.errors import FrameError
from engine.model.network import build_model
from engine.tracking.multi import MultiTracker
from engine.tracking.tracker import Tracker
from engine.video import Reader, VideoFile
from engine.video.sinks import BoxText, JsonFile, JsonLines, Sinks
from engine.weights.io import Weights

_ALLOWED_MB = 5.0
_WARM_UP = 0.1
_BOX = (30.0, 20.0, 24.0, 20.0)
_SIZES = ((96, 64), (128, 96), (97, 63))


@dataclasses.dataclass
class Watch:
    """Memory and handles of this process, looked at a hundred times in a run."""

    frames: int
    resident_mb: list[float] = dataclasses.field(default_factory=list)
    handles: list[int] = dataclasses.field(default_factory=list)
    threads: list[int] = dataclasses.field(default_factory=list)
    count: int = 0

    def frame(self) -> None:
        """Call once a frame."""
        self.count += 1
        if self.count % max(1, self.frames // 100) == 0:
            self.resident_mb.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20)
            self.handles.append(len(os.listdir("/proc/self/fd")))
            self.threads.append(len(os.listdir("/proc/self/task")))

    def row(self) -> dict[str, Any]:
        """Growth is the highest value after the warm-up less the value at its end."""
        first = round(_WARM_UP * len(self.resident_mb))
        memory, handles, threads = self.resident_mb[first:], self.handles[first:], self.threads[first:]
        growth, more_handles = max(memory) - memory[0], max(handles) - handles[0]
        return {
            "frames": self.count,
            "growth_mb": round(growth, 3),
            "resident_mb": [round(value, 2) for value in self.resident_mb],
            "handles": [min(handles), max(handles)],
            "threads": [min(threads), max(threads)],
            "ok": self.count >= self.frames and growth < _ALLOWED_MB and more_handles == 0,
        }


def tiny_weights() -> Weights:
    """All parts of the tracker, elimination included, in the smallest sizes; random parameters."""
    config = ModelConfig(
        name="soak",
        dim=32,
        heads=1,
        depth=4,
        head_channels=8,
        template_size=32,
        search_size=64,
        search_factor=4.0,
        elimination_layers=(1, 2),
    )
    torch.manual_seed(0)
    return Weights(config, build_model(config).state_dict(), {}, Path("in memory"))


def soak_tracker(tracker: Tracker, watch: Watch) -> None:
    """Frames of three sizes in turn; a frame that must be refused and a new target every 1000 frames."""
    random = np.random.default_rng(0)
    frames = [random.integers(0, 256, (height, width, 3), np.uint8) for width, height in _SIZES]
    for index in range(watch.frames):
        if index % 1000 == 0:
            tracker.init(frames[0], _BOX)
            with contextlib.suppress(FrameError):
                tracker.update(frames[0].astype(np.float32))
        tracker.update(frames[index // 10 % len(frames)])
        watch.frame()


def soak_session(tracker: Tracker, watch: Watch) -> None:
    """One long video file, every output that `esat track` writes as text."""
    with tempfile.TemporaryDirectory(prefix="esat-soak-") as name:
        folder = Path(name)
        _write_clip(folder / "long.mp4", watch.frames)
        with Reader(VideoFile(folder / "long.mp4")) as reader, Sinks() as sinks:
            for sink in (JsonFile(folder / "a.json", {"model": "soak"}), JsonLines(folder / "a.jsonl"), BoxText(folder / "a.txt")):
                sinks.add(sink)
            follow(MultiTracker(tracker.runner), reader, [Given(1, _BOX)], sinks, Session(), lambda frame, records: watch.frame())
            sinks.finish({})


def _write_clip(path: Path, count: int) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(25), options={"preset": "ultrafast", "crf": "35"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for image in _moving_square(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "bgr24")))
        container.mux(stream.encode())


def _moving_square(count: int) -> Iterator[np.ndarray]:
    background = np.random.default_rng(0).integers(60, 120, (64, 96, 3), np.uint8)
    for index in range(count):
        image = background.copy()
        left = 30 + index // 4 % 30
        image[20:40, left : left + 24] = (40, 140, 240)
        yield image


SCOPES: dict[str, Callable[[Tracker, Watch], None]] = {"tracker": soak_tracker, "session": soak_session}


def measure(scope: str, frames: int) -> dict[str, Any]:
    """One scope's row."""
    tracker, watch = Tracker(tiny_weights(), device="cpu"), Watch(frames)
    start = time.perf_counter()
    SCOPES[scope](tracker, watch)
    about = {"scope": scope, "device": "cpu", "dtype": tracker.runner.dtype, "allowed_mb": _ALLOWED_MB, "warm_up": _WARM_UP}
    return {**about, "seconds": round(time.perf_counter() - start, 1), **watch.row(), **harness.machine()}


def main(
    frames: Annotated[int, typer.Option(min=100, help="Length of each run.")] = 100_000,
    scopes: Annotated[str, typer.Option(help="Which runs, with commas.")] = "tracker,session",
    json_path: Annotated[str | None, typer.Option("--json", help="Also write JSON lines to a file, or to stdout (-).")] = None,
) -> None:
    """Run long and watch memory and file handles. Exit code 1 if something grew."""
    console = Console(stderr=True)
    rows = []
    for scope in harness.choices(scopes, list(SCOPES), "--scopes"):
        row = measure(scope, frames)
        rows.append(row)
        console.print(
            f"{scope}: {row['frames']} frames in {row['seconds']} s, memory +{row['growth_mb']} MB (at most {_ALLOWED_MB:g}), "
            f"handles {row['handles']}, {'ok' if row['ok'] else 'GREW'}",
            highlight=False,
        )
    harness.write_rows(rows, json_path)
    raise typer.Exit(0 if all(row["ok"] for row in rows) else 1)


if __name__ == "__main__":
    run_function(main)
