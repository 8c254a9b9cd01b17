"""Where results go: JSON, JSON lines, text. A file appears under its name when all frames are in it, and not at all after a failure."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from engine.errors import SinkError
from engine.files import PendingFile
from engine.video.frames import Frame


@dataclasses.dataclass(frozen=True)
class Record:
    """What one frame gave for one target.

    box: x, y, w, h in pixels; in the frame in which it was given that box, with score 1. latency_ms: of the tracker alone, for all targets
    of the frame together. target: its id, 1 and more.
    """

    index: int
    box: tuple[float, float, float, float]
    score: float
    state: str
    latency_ms: float
    target: int = 1

    def to_json(self, time: Fraction, with_id: bool = False) -> str:
        """One line with the contract's keys, boxes to a thousandth of a pixel. time: seconds since the source's first frame."""
        return json.dumps(
            {
                "index": self.index,
                "time": float(time),
                **({"id": self.target} if with_id else {}),
                "box": [round(float(value), 3) for value in self.box],
                "score": round(float(self.score), 6),
                "state": str(self.state),
                "latency_ms": round(self.latency_ms, 3),
            }
        )


class Sink:
    """Takes frames one by one, each with a record for every target that is followed, then either `finish` and `publish`, or `abort`."""

    target: Path | None = None

    def write(self, frame: Frame, records: Sequence[Record]) -> None:
        raise NotImplementedError

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Complete the temporary file; `summary` is for those that store more than frames. SinkError if it cannot be completed."""

    def publish(self) -> None:
        """Put the finished file under its name."""

    def abort(self) -> None:
        """Leave nothing behind."""


class Sinks:
    """Several sinks as one. As a context manager: at the end, those that have not been published are aborted."""

    def __init__(self, sinks: Iterable[Sink] = ()) -> None:
        self._sinks = list(sinks)
        self._published = 0

    @property
    def targets(self) -> list[Path]:
        return [sink.target for sink in self._sinks if sink.target is not None]

    def add(self, sink: Sink) -> None:
        self._sinks.append(sink)

    def write(self, frame: Frame, records: Sequence[Record]) -> None:
        for sink in self._sinks:
            sink.write(frame, records)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Complete all files, then give all of them their names. SinkError: if one cannot be completed, none appears; if one cannot get its
        name, none after it.
        """
        for sink in self._sinks:
            sink.finish(summary)
        for sink in self._sinks:
            sink.publish()
            self._published += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for sink in self._sinks[self._published :]:
            sink.abort()


class FileSink(Sink):
    """Base of sinks with a file: it has a temporary name until `publish`."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self._pending = PendingFile(target)

    def publish(self) -> None:
        self._pending.publish()

    def abort(self) -> None:
        self._pending.discard()


class TextFile(FileSink):
    """Base of sinks that write lines of text: what `line` makes of each record."""

    def __init__(self, target: Path) -> None:
        super().__init__(target)
        self._file: IO[str] = self._pending.partial.open("w", encoding="utf-8", newline="\n")

    def write(self, frame: Frame, records: Sequence[Record]) -> None:
        for record in records:
            self._print(self.line(frame, record))

    def line(self, frame: Frame, record: Record) -> str:
        """The record's line, with its end."""
        raise NotImplementedError

    def finish(self, summary: Mapping[str, Any]) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise SinkError(f"cannot write {self.target}: {error.strerror}") from error

    def abort(self) -> None:
        with contextlib.suppress(OSError):  # the buffer's rest may not fit on the disk either; the file goes anyway
            self._file.close()
        super().abort()

    def _print(self, text: str) -> None:
        try:
            self._file.write(text)
        except OSError as error:
            raise SinkError(f"cannot write {self.target}: {error.strerror}") from error


class BoxText(TextFile):
    """One line `x,y,w,h` a frame, as OTB, LaSOT and GOT-10k result files have it; with ids `frame,id,x,y,w,h`, frames from 0 on."""

    def __init__(self, target: Path, with_ids: bool = False) -> None:
        super().__init__(target)
        self._with_ids = with_ids

    def line(self, frame: Frame, record: Record) -> str:
        name = f"{record.index},{record.target}," if self._with_ids else ""
        return name + ",".join(f"{value:.3f}" for value in record.box) + "\n"


class MotText(TextFile):
    """One line `frame,id,x,y,w,h,score,-1,-1,-1` for each target and frame, as MOTChallenge has it: frames count from 1."""

    def line(self, frame: Frame, record: Record) -> str:
        box = ",".join(f"{value:.2f}" for value in record.box)
        return f"{record.index + 1},{record.target},{box},{record.score:.4f},-1,-1,-1\n"


class Csv(TextFile):
    """A header, then one line for each target and frame; `frame` counts from 0, `time` is in seconds since the source's first frame."""

    def __init__(self, target: Path) -> None:
        super().__init__(target)
        self._print("frame,time,id,x,y,w,h,score,state,latency_ms\n")

    def line(self, frame: Frame, record: Record) -> str:
        box = ",".join(f"{value:.3f}" for value in record.box)
        rest = f"{record.score:.6f},{record.state},{record.latency_ms:.3f}"
        return f"{record.index},{float(frame.timestamp)!r},{record.target},{box},{rest}\n"


class JsonLines(TextFile):
    """One JSON object for each target and frame."""

    def __init__(self, target: Path, with_ids: bool = False) -> None:
        super().__init__(target)
        self._with_ids = with_ids

    def line(self, frame: Frame, record: Record) -> str:
        return record.to_json(frame.timestamp, self._with_ids) + "\n"


class JsonFile(TextFile):
    """`{"model": ..., "device": ..., "frames": [...], ...}`: one row for each target and frame; the summary's keys follow. Written as it goes."""

    def __init__(self, target: Path, header: Mapping[str, Any], with_ids: bool = False) -> None:
        super().__init__(target)
        self._first, self._with_ids = True, with_ids
        start = json.dumps(dict(header), indent=1)
        self._print((start[:-2] + "," if header else "{") + '\n "frames": [')

    def line(self, frame: Frame, record: Record) -> str:
        separator, self._first = "\n  " if self._first else ",\n  ", False
        return separator + record.to_json(frame.timestamp, self._with_ids)

    def finish(self, summary: Mapping[str, Any]) -> None:
        rest = "".join(f",\n {json.dumps(key)}: {json.dumps(value)}" for key, value in summary.items())
        self._print(f"\n ]{rest}\n}}\n")
        super().finish(summary)


class StdoutJsonLines(Sink):
    """One JSON object for each target and frame on standard output, each flushed at once, for another program to read along."""

    def __init__(self, with_ids: bool = False) -> None:
        self._with_ids = with_ids

    def write(self, frame: Frame, records: Sequence[Record]) -> None:
        try:
            for record in records:
                print(record.to_json(frame.timestamp, self._with_ids), flush=True)
        except OSError as error:
            raise SinkError(f"cannot write to standard output: {error.strerror}") from error
