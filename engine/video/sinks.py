"""Where results go: JSON, JSON lines, text. A file appears under its name when all frames are in it, and not at all after a failure."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from engine.errors import SinkError
from engine.files import PendingFile
from engine.video.frames import Frame


@dataclasses.dataclass(frozen=True)
class Record:
    """One frame's outcome. box: x, y, w, h in pixels; the first frame's is the given one, with score 1; latency: of the tracker alone."""

    index: int
    box: tuple[float, float, float, float]
    score: float
    state: str
    latency_ms: float

    def to_json(self) -> str:
        """One line with the contract's keys, boxes to a thousandth of a pixel."""
        return json.dumps(
            {
                "index": self.index,
                "box": [round(float(value), 3) for value in self.box],
                "score": round(float(self.score), 6),
                "state": str(self.state),
                "latency_ms": round(self.latency_ms, 3),
            }
        )


class Sink:
    """Takes frames one by one, then either `finish` and `publish`, or `abort`."""

    target: Path | None = None

    def write(self, frame: Frame, record: Record) -> None:
        raise NotImplementedError

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Complete the temporary file; `summary` is for those that store more than frames. SinkError if it cannot be completed."""

    def publish(self) -> None:
        """Put the finished file under its name."""

    def abort(self) -> None:
        """Leave nothing behind."""


class Sinks:
    """Several sinks as one. As a context manager: after an exception, all are aborted, unless `finish` has been called."""

    def __init__(self, sinks: Iterable[Sink] = ()) -> None:
        self._sinks = list(sinks)
        self._open = True

    @property
    def targets(self) -> list[Path]:
        return [sink.target for sink in self._sinks if sink.target is not None]

    def add(self, sink: Sink) -> None:
        self._sinks.append(sink)

    def write(self, frame: Frame, record: Record) -> None:
        for sink in self._sinks:
            sink.write(frame, record)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Complete all files, then give all of them their names. If one cannot be completed, none appears (SinkError)."""
        for sink in self._sinks:
            sink.finish(summary)
        self._open = False
        for sink in self._sinks:
            sink.publish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._open:
            for sink in self._sinks:
                sink.abort()


class TextFile(Sink):
    """Base of sinks that write lines of text."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self._pending = PendingFile(target)
        self._file: IO[str] = self._pending.partial.open("w", encoding="utf-8", newline="\n")

    def finish(self, summary: Mapping[str, Any]) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise SinkError(f"cannot write {self.target}: {error.strerror}") from error

    def publish(self) -> None:
        self._pending.publish()

    def abort(self) -> None:
        with contextlib.suppress(OSError):  # the buffer's rest may not fit on the disk either; the file goes anyway
            self._file.close()
        self._pending.discard()

    def _print(self, text: str) -> None:
        try:
            self._file.write(text)
        except OSError as error:
            raise SinkError(f"cannot write {self.target}: {error.strerror}") from error


class BoxText(TextFile):
    """One line `x,y,w,h` a frame, as OTB, LaSOT and GOT-10k result files have it."""

    def write(self, frame: Frame, record: Record) -> None:
        self._print(",".join(f"{value:.3f}" for value in record.box) + "\n")


class MotText(TextFile):
    """One line `frame,id,x,y,w,h,score,-1,-1,-1` a frame, as MOTChallenge has it: frames count from 1, the target's id is 1."""

    def write(self, frame: Frame, record: Record) -> None:
        box = ",".join(f"{value:.2f}" for value in record.box)
        self._print(f"{record.index + 1},1,{box},{record.score:.4f},-1,-1,-1\n")


class JsonLines(TextFile):
    """One JSON object a frame."""

    def write(self, frame: Frame, record: Record) -> None:
        self._print(record.to_json() + "\n")


class JsonFile(TextFile):
    """`{"model": ..., "device": ..., "frames": [...], ...}`: the summary's keys follow the frames. Written as it goes."""

    def __init__(self, target: Path, header: Mapping[str, Any]) -> None:
        super().__init__(target)
        self._first = True
        start = json.dumps(dict(header), indent=1)
        self._print((start[:-2] + "," if header else "{") + '\n "frames": [')

    def write(self, frame: Frame, record: Record) -> None:
        self._print(("\n  " if self._first else ",\n  ") + record.to_json())
        self._first = False

    def finish(self, summary: Mapping[str, Any]) -> None:
        rest = "".join(f",\n {json.dumps(key)}: {json.dumps(value)}" for key, value in summary.items())
        self._print(f"\n ]{rest}\n}}\n")
        super().finish(summary)


class StdoutJsonLines(Sink):
    """One JSON object a frame on standard output, each flushed at once, for another program to read along."""

    def write(self, frame: Frame, record: Record) -> None:
        try:
            print(record.to_json(), flush=True)
        except OSError as error:
            raise SinkError(f"cannot write to standard output: {error.strerror}") from error
