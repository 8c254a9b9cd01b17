"""What the commands that run a tracker share: Ctrl-C, progress bar, closing table."""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from engine.errors import BoxError
from engine.video.frames import Frame
from engine.video.sinks import Record

Box = tuple[float, float, float, float]


def parse_box(text: str) -> Box:
    """`X,Y,W,H` as four numbers; BoxError for anything else. Whether it fits the frame is for the tracker to say."""
    try:
        x, y, w, h = (float(part) for part in text.replace(" ", ",").split(",") if part)
    except ValueError as error:
        raise BoxError(f"--box must be four numbers X,Y,W,H in pixels, such as 205,151,17,50, got {text!r}") from error
    return x, y, w, h


class Interrupt:
    """While active, Ctrl-C and SIGTERM set `requested` instead of stopping the program, so that outputs can be completed.

    A second Ctrl-C stops at once. Outside the main thread nothing is changed.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self.requested

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


class TrackingProgress:
    """Progress bar on stderr with frames per second, score and state; silent where stderr is no terminal or `quiet` is set."""

    def __init__(self, total: int | None, quiet: bool = False) -> None:
        console = Console(stderr=True)
        columns = [
            TextColumn("tracking"),
            BarColumn(),
            TaskProgressColumn(show_speed=False),
            TextColumn("frame {task.completed}"),
            TextColumn("{task.fields[speed]}"),
            TextColumn("score {task.fields[score]}"),
            TimeRemainingColumn(),
        ]
        self._bar = Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
        self._task = self._bar.add_task("tracking", total=total, speed="", score="")

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.__exit__(kind, error, trace)

    def step(self, frame: Frame, record: Record) -> None:
        speed = self._bar.tasks[0].speed
        self._bar.update(
            self._task,
            advance=1,
            speed=f"{speed:.1f} frames/s" if speed else "",
            score=f"{record.score:.2f} {record.state}",
        )


SCOPES = {
    "network": "network alone",
    "tracker": "crop + network + decode",
    "pipeline": "reading, tracking, writing",
}


def print_summary(console: Console, title: str, fps: Mapping[str, Mapping[str, float | None]], outputs: Sequence[Path]) -> None:
    """Frames per second of each scope, one column a run, then where the outputs are."""
    table = Table(show_edge=False)
    table.add_column("scope")
    for name in fps:
        table.add_column(f"{name} frames/s".lstrip(), justify="right")
    table.add_column("what is timed")
    for scope, meaning in SCOPES.items():
        values = ("-" if run[scope] is None else f"{run[scope]:.1f}" for run in fps.values())
        table.add_row(scope, *values, meaning)
    console.print(title, markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    for path in outputs:
        console.print(f"written: {path}", markup=False, highlight=False, soft_wrap=True)
