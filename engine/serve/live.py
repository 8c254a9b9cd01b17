"""One tracking run for one browser: a thread reads, tracks and encodes, a bounded queue hands the pictures over."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import cv2
import numpy as np

from engine.boxes import Box
from engine.errors import EsatError, IncompleteError
from engine.runners.protocol import Runner
from engine.serve.metrics import Metrics
from engine.tracking.state import TargetState
from engine.tracking.target import Result
from engine.tracking.tracker import Tracker
from engine.video import Frame, Source

_LONGEST_SIDE = 960  # pixels of the pictures that are sent
_QUEUE = 4


@dataclasses.dataclass(frozen=True)
class Message:
    """What goes to the browser: a JSON text, then (for frames) a JPEG."""

    text: str
    picture: bytes | None = None


def encode(image: np.ndarray) -> tuple[bytes, float]:
    """A BGR frame as JPEG, shrunk to at most 960 pixels, and the factor from frame to picture."""
    factor = min(1.0, _LONGEST_SIDE / max(image.shape[:2]))
    if factor < 1:
        size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, 80))[1].tobytes(), factor


def describe(index: int, result: Result, grid: int) -> dict[str, Any]:
    """A result as plain values for the page. grid: side of the search grid."""
    kept = result.kept_tokens
    return {
        "type": "frame",
        "index": index,
        "box": [round(value, 2) for value in result.box],
        "score": round(result.score, 4),
        "state": str(result.state),
        "timings_ms": {stage: round(value, 2) for stage, value in result.timings_ms.items()},
        "region": [round(value, 2) for value in result.search_region],
        "grid": grid,
        "kept": None if kept is None else [int(position) for position in kept],
    }


class LiveRun:
    """Tracks `box` through `source` in a thread of its own until the end, an error, or `stop`."""

    def __init__(self, runner: Runner, in_turn: threading.Lock, source: Source, box: Box, metrics: Metrics):
        self._tracker, self._in_turn = Tracker(runner), in_turn  # a runner serves one thread at a time
        self._source, self._box, self._metrics = source, box, metrics
        self._state = TargetState.TRACKING
        self._begun = False
        self._stop = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Message | None] = asyncio.Queue(_QUEUE)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def stop(self) -> None:
        """Ask the run to end; `messages` ends soon after."""
        self._stop.set()
        self._source.interrupt()

    async def messages(self) -> AsyncIterator[Message]:
        """Start, and yield what the browser is to be sent. The browser's pace holds the tracker back: no frame of a file is skipped."""
        self._thread.start()
        try:
            while (message := await self._queue.get()) is not None:
                yield message
        finally:
            self.stop()
            while self._thread.is_alive():  # the thread may wait for room in the queue
                while not self._queue.empty():
                    self._queue.get_nowait()
                await asyncio.sleep(0.01)

    def _run(self) -> None:
        end = {"type": "end", "reason": "end of the clip"}
        try:
            with self._source as source:
                self._follow(source)
        except IncompleteError as error:
            end = {"type": "end", "reason": " ".join(str(error).split())}
        except EsatError as error:
            end = {"type": "error", "reason": " ".join(str(error).split())}
        if self._stop.is_set():
            end = {"type": "end", "reason": "stopped"}
        self._put(Message(json.dumps(end)))
        self._put(None)

    def _follow(self, source: Source) -> None:
        period, next_time = 1 / float(source.rate), time.monotonic()
        for frame in source:
            if self._stop.is_set():
                return
            self._put(self._step(frame))
            if not source.live:  # files play at their own speed at most
                next_time = max(next_time + period, time.monotonic())
                self._stop.wait(max(0.0, next_time - period - time.monotonic()))

    def _step(self, frame: Frame) -> Message:
        if not self._begun:
            with self._in_turn:
                self._tracker.init(frame.image, self._box)
            self._begun = True
            body: dict[str, Any] = {"type": "frame", "index": frame.index, "box": list(self._box), "score": 1.0, "state": "TRACKING"}
        else:
            with self._in_turn:
                result = self._tracker.update(frame.image)
            self._metrics.frame(result, self._state)
            self._state = result.state
            body = describe(frame.index, result, self._tracker.model_config.search_grid)
        picture, factor = encode(frame.image)
        return Message(json.dumps({**body, "scale": factor}), picture)

    def _put(self, message: Message | None) -> None:
        """Hand over from the thread, waiting while the queue is full."""
        asyncio.run_coroutine_threadsafe(self._queue.put(message), self._loop).result()
