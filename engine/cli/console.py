"""What the commands that run a tracker share: Ctrl-C, progress bar, closing table."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from engine.cli.terminal import terminal
from engine.video.frames import Frame
from engine.video.sinks import Record

_SECONDS_BETWEEN_LINES = 10.0  # where there is no terminal for a progress bar


class Interrupt:
    """While active, Ctrl-C, SIGTERM and a closed terminal (SIGHUP, unless it is ignored, as by nohup) set `requested` instead of stopping the
    program, so that outputs can be completed.

    A second Ctrl-C stops at once. Outside the main thread nothing is changed.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self.requested

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            numbers = [signal.SIGINT, signal.SIGTERM]
            if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # not on Windows
                numbers.append(signal.SIGHUP)
            for number in numbers:
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
    """Progress on stderr with frames per second, score and state: a bar, or a line now and then where stderr is no terminal.

    name: stands in front of the lines. Nothing is shown if `quiet` is set.
    """

    def __init__(self, total: int | None, quiet: bool = False, name: str = "tracking") -> None:
        self._console = terminal(stderr=True)
        columns = [
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(show_speed=False),
            TextColumn("frame {task.completed}"),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[score]}"),
            TimeRemainingColumn(),
        ]
        self._lines = not quiet and not self._console.is_terminal
        self._bar = Progress(*columns, console=self._console, transient=True, disable=quiet or self._lines)
        self._task = self._bar.add_task(name, total=total, speed="", score="")
        self._total, self._name, self._frames = total, name, 0
        self._begin = self._printed = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.__exit__(kind, error, trace)

    def step(self, frame: Frame, records: Sequence[Record]) -> None:
        self._frames += 1
        now = time.monotonic()
        if self._lines and now - self._printed >= _SECONDS_BETWEEN_LINES:
            self._printed = now
            of = "" if self._total is None else f" of {self._total}"
            text = f"{self._name}: {self._frames}{of} frames, {self._frames / (now - self._begin):.1f} frames/s, {_describe(records)}"
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        speed = self._bar.tasks[0].speed
        self._bar.update(self._task, advance=1, speed=f"{speed:.1f} frames/s" if speed else "", score=_describe(records))


def _describe(records: Sequence[Record]) -> str:
    if len(records) == 1:
        return f"score {records[0].score:.2f} {records[0].state}"
    lost = sum(str(record.state) == "LOST" for record in records)
    return f"{len(records)} targets" + (f", {lost} lost" if lost else "")


SCOPES = {
    "pipeline": "reading, tracking, writing",
    "tracker": "crop + network + decode",
    "network": "network alone",
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
    if title:
        console.print(title, markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    for path in outputs:
        console.print(f"written: {path}", markup=False, highlight=False, soft_wrap=True)
