"""From a source through a tracker into sinks: the loop that `esat track` and the demo share."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from engine.video.frames import Frame
from engine.video.sinks import Record, Sinks


class TrackerLike(Protocol):
    """What the loop needs of a tracker."""

    def init(self, frame: np.ndarray, box: Any) -> None: ...

    def update(self, frame: np.ndarray) -> Any: ...


@dataclasses.dataclass
class Session:
    """Times of one run, and the frames per second of its three scopes.

    network: the network alone; tracker: crop, network and decode; pipeline: the second frame on, with reading and writing.
    """

    frames: int = 0
    network_ms: float = 0.0
    tracker_ms: float = 0.0
    pipeline_ms: float = 0.0
    interrupted: bool = False

    def fps(self) -> dict[str, float | None]:
        """Frames per second of each scope over the frames after the first; None where nothing was measured."""
        spent = {"network": self.network_ms, "tracker": self.tracker_ms, "pipeline": self.pipeline_ms}
        count = self.frames - 1
        return {scope: round(1e3 * count / time_ms, 2) if time_ms and count > 0 else None for scope, time_ms in spent.items()}


def follow(
    tracker: TrackerLike,
    first: Frame,
    rest: Iterator[Frame],
    box: tuple[float, float, float, float],
    sinks: Sinks,
    session: Session,
    on_record: Callable[[Frame, Record], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    max_frames: int | None = None,
) -> None:
    """Start in frame `first` with `box` and follow it through `rest`. One record a frame goes to the sinks, then to `on_record`.

    `stop` is asked after each frame. `session` is filled as the loop goes, so that it is right after an error as well.
    """
    begin = time.perf_counter()
    tracker.init(first.image, box)
    latency = 1e3 * (time.perf_counter() - begin)
    _give(sinks, on_record, session, first, Record(first.index, box, 1.0, "TRACKING", latency))
    start = time.perf_counter()
    while not (max_frames is not None and session.frames >= max_frames):
        if stop():
            session.interrupted = True
            return
        frame = next(rest, None)
        if frame is None:
            session.interrupted = stop()
            return
        begin = time.perf_counter()
        result = tracker.update(frame.image)
        latency = 1e3 * (time.perf_counter() - begin)
        session.network_ms += result.timings_ms.get("network", 0.0)
        session.tracker_ms += latency
        _give(sinks, on_record, session, frame, Record(frame.index, result.box, result.score, str(result.state), latency))
        session.pipeline_ms = 1e3 * (time.perf_counter() - start)


def _give(sinks: Sinks, on_record: Callable[[Frame, Record], None] | None, session: Session, frame: Frame, record: Record) -> None:
    sinks.write(frame, record)
    session.frames += 1
    if on_record is not None:
        on_record(frame, record)
