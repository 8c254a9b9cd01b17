"""A thread that reads ahead, so that decoding and tracking overlap, within a bounded number of frames."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from engine.errors import SourceError
from engine.video.frames import Frame, Source

Policy = Literal["every", "newest"]


class Reader(Source):
    """Reads `source` in a thread. Policy `every`: all frames, the thread waits when `capacity` frames lie ready. Policy `newest`:
    the thread never waits, a frame that was not taken in time is replaced by the next one and counted in `dropped`.

    Default policy: `newest` for live sources, `every` for files. Errors of the source are raised after the frames before them.
    `stop`, if given, is asked about ten times a second while waiting for a frame; True ends the iteration.
    The source belongs to the reader: its thread closes it.
    """

    def __init__(self, source: Source, policy: Policy | None = None, capacity: int = 4, stop: Callable[[], bool] | None = None) -> None:
        if policy not in (None, "every", "newest"):
            raise SourceError(f"reader policy must be 'every' or 'newest', got {policy!r}")
        if capacity < 1:
            raise SourceError(f"reader capacity must be at least 1 frame, got {capacity}")
        self.policy: Policy = policy or ("newest" if source.live else "every")
        self.dropped = 0
        self._source, self._stop_asked = source, stop or (lambda: False)
        self._capacity = 1 if self.policy == "newest" else capacity
        self._frames: collections.deque[Frame] = collections.deque()
        self._changed = threading.Condition()
        self._ended = self._closing = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._read, name=f"reader of {source.name}", daemon=True)
        self.name, self.live, self.frame_count = source.name, source.live, source.frame_count
        self.rate, self.time_base, self.one_size = source.rate, source.time_base, source.one_size
        self._thread.start()

    @property
    def damaged(self) -> int:  # type: ignore[override]
        return self._source.damaged

    @property
    def notes(self) -> Sequence[str]:  # type: ignore[override]
        return self._source.notes

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self._take()) is not None:
            yield frame

    def interrupt(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._source.interrupt()

    def close(self, patience: float = 2.0) -> None:
        """End the thread. One that hangs in a camera or network call is left to end by itself: it cannot be killed safely."""
        self.interrupt()
        deadline = time.monotonic() + patience
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._thread.join(0.05)

    def _take(self) -> Frame | None:
        with self._changed:
            while not self._frames or self._closing:
                if self._closing or self._stop_asked():
                    return None
                if self._error is not None:
                    raise self._error
                if self._ended:
                    return None
                self._changed.wait(0.1)
            frame = self._frames.popleft()
            self._changed.notify_all()
            return frame

    def _put(self, frame: Frame) -> bool:
        """Hand a frame over; False: the reader is closing."""
        with self._changed:
            if self.policy == "newest" and self._frames:
                self._frames.popleft()
                self.dropped += 1
            while len(self._frames) >= self._capacity and not self._closing:
                self._changed.wait()
            self._frames.append(frame)
            self._changed.notify_all()
            return not self._closing

    def _read(self) -> None:
        error: Exception | None = None
        try:
            for frame in self._source:
                if not self._put(frame):
                    break
        except Exception as caught:  # noqa: BLE001  whatever it is belongs to the thread that takes the frames
            error = caught
        finally:
            self._source.close()
            with self._changed:
                self._error, self._ended = error, True
                self._changed.notify_all()
