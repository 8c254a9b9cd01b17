"""From frames through a tracker into sinks: the loop of every run over a clip."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from engine.clips.given import Given
from engine.errors import BoxError
from engine.video.frames import Frame
from engine.video.sinks import Record, Sinks

OnFrame = Callable[[Frame, Sequence[Record]], None]


class TrackerLike(Protocol):
    """What the loop needs of a tracker: that of `MultiTracker`."""

    def add(self, frame: np.ndarray, box: Any) -> int: ...

    def restart(self, target_id: int, frame: np.ndarray, box: Any) -> None: ...

    def update(self, frame: np.ndarray) -> Any: ...


@dataclasses.dataclass
class Session:
    """Times of one run, and the frames per second of its three scopes.

    network: the network alone; tracker: crop, network and decode; pipeline: the second frame on, with reading and writing.
    """

    frames: int = 0
    tracked: int = 0  # frames in which targets were looked for
    network_ms: float = 0.0
    tracker_ms: float = 0.0
    pipeline_ms: float = 0.0
    interrupted: bool = False
    unused: list[Given] = dataclasses.field(default_factory=list)  # boxes whose frame did not come

    def fps(self) -> dict[str, float | None]:
        """Frames per second of each scope over the frames after the first; None where nothing was measured."""
        scopes = {
            "network": (self.tracked, self.network_ms),
            "tracker": (self.tracked, self.tracker_ms),
            "pipeline": (self.frames - 1, self.pipeline_ms),
        }
        return {scope: round(1e3 * count / spent, 2) if spent and count > 0 else None for scope, (count, spent) in scopes.items()}


def follow(
    tracker: TrackerLike,
    frames: Iterable[Frame],
    given: Sequence[Given],
    sinks: Sinks,
    session: Session,
    on_frame: OnFrame | None = None,
    stop: Callable[[], bool] = lambda: False,
    max_frames: int | None = None,
    rate: Fraction = Fraction(30),
    backwards: bool = False,
) -> None:
    """Follow the targets of `given` through `frames`, all of a frame in one batch. Each frame's records go to the sinks, then to `on_frame`.

    A target begins, or is corrected, in the first frame at or after the place of its box (with `backwards` at or before it); `rate` tells
    how long a frame is shown, so that a time just before the first frame counts as that frame's. `stop` is asked after each frame.
    `session` is filled as the loop goes, so that it is right after an error as well.
    """
    targets = _Targets(tracker, given, session, rate, backwards)
    rest, start = iter(frames), 0.0
    while not (max_frames is not None and session.frames >= max_frames):
        if session.frames and stop():
            session.interrupted = True
            return
        frame = next(rest, None)
        if frame is None:
            session.interrupted = stop()
            return
        records = targets.step(frame)
        sinks.write(frame, records)
        session.frames += 1
        if on_frame is not None:
            on_frame(frame, records)
        if session.frames == 1:
            start = time.perf_counter()
        else:
            session.pipeline_ms = 1e3 * (time.perf_counter() - start)


class _Targets:
    """The targets of a run between frames, under the ids that the user knows."""

    def __init__(self, tracker: TrackerLike, given: Sequence[Given], session: Session, rate: Fraction, backwards: bool) -> None:
        self._tracker, self._session, self._rate, self._backwards = tracker, session, rate, backwards
        self._waiting = session.unused = list(given)
        self._ids: dict[int, int] = {}  # the user's id -> the tracker's
        self._first = True

    def step(self, frame: Frame) -> list[Record]:
        """The records of the next frame, in the order in which the targets began."""
        session = self._session
        begin = time.perf_counter()
        results = self._tracker.update(frame.image) if self._ids else {}
        started = dict(self._start(frame))
        latency = 1e3 * (time.perf_counter() - begin)
        if results:
            session.tracked += 1
            session.network_ms += next(iter(results.values())).timings_ms.get("network", 0.0)
            session.tracker_ms += latency
        records = []
        for target, number in self._ids.items():
            if target in started:
                records.append(Record(frame.index, started[target], 1.0, "TRACKING", latency, target))
            else:
                result = results[number]
                records.append(Record(frame.index, result.box, result.score, str(result.state), latency, target))
        return records

    def _start(self, frame: Frame) -> Iterator[tuple[int, tuple[float, float, float, float]]]:
        """Begin and correct the targets whose boxes are due; of boxes of a target that are due together the last one counts."""
        if self._first:
            self._waiting = [entry for entry in self._waiting if not entry.is_past(frame, self._rate, self._backwards)]
            self._first = False
        for entry in [entry for entry in self._waiting if entry.is_due(frame, self._backwards)]:
            self._begin(entry, frame)
            self._waiting = [other for other in self._waiting if other is not entry]
            self._session.unused = [other for other in self._session.unused if other is not entry]
            yield entry.target, entry.box

    def _begin(self, entry: Given, frame: Frame) -> None:
        try:
            if entry.target in self._ids:
                self._tracker.restart(self._ids[entry.target], frame.image, entry.box)
            else:
                self._ids[entry.target] = self._tracker.add(frame.image, entry.box)
        except BoxError as error:
            raise BoxError(f"target {entry.target}, frame {frame.index}: {error}") from error
