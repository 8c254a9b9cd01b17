"""One tracking run for one browser: a thread reads, tracks and encodes, a bounded queue hands the pictures over."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import json
import queue
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from engine.boxes import Box
from engine.errors import EsatError, IncompleteError, StateError
from engine.runners.protocol import Runner
from engine.serve.metrics import Metrics
from engine.tracking.multi import MultiTracker
from engine.tracking.state import TargetState
from engine.tracking.target import Result
from engine.video import Frame, Source

_LONGEST_SIDE = 960  # pixels of the pictures that are sent
_QUEUE = 4
MOST_TARGETS = 64
_RECENT = 16  # frames that are kept for boxes drawn on them: more than are under way to the browser


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


def describe(index: int, results: Mapping[int, Result], grid: int) -> dict[str, Any]:
    """A frame's results as plain values for the page, by target id. grid: side of the search grid."""
    targets = [
        {
            "id": target,
            "box": [round(value, 2) for value in result.box],
            "score": round(result.score, 4),
            "state": str(result.state),
            "region": [round(value, 2) for value in result.search_region],
            "kept": None if result.kept_tokens is None else [int(position) for position in result.kept_tokens],
        }
        for target, result in results.items()
    ]
    times = next((result.timings_ms for result in results.values()), None)
    timings = None if times is None else {stage: round(value, 2) for stage, value in times.items()}
    return {"type": "frame", "index": index, "targets": targets, "grid": grid, "timings_ms": timings}


@dataclasses.dataclass(frozen=True)
class Command:
    """What a browser asks for while a run goes on: follow `box` as a new target, or as `target` from now on, or no longer follow `target`.

    index: the frame that the box was drawn on; the target is taken from that frame if it is still kept, since the run is ahead of the page.
    """

    box: Any = None
    target: int | None = None
    index: int | None = None


class LiveRun:
    """Tracks what `boxes` hold in the first frame through `source`, in a thread of its own until the end, an error, or `stop`.

    Targets have the ids 1, 2, ... in the order in which they were added.
    """

    def __init__(self, runner: Runner, in_turn: threading.Lock, source: Source, boxes: Sequence[Box], metrics: Metrics):
        self._tracker, self._in_turn = MultiTracker(runner), in_turn  # a runner serves one thread at a time
        self._source, self._boxes, self._metrics = source, boxes, metrics
        self._states: dict[int, TargetState] = {}
        self._stop, self._going = threading.Event(), threading.Event()
        self._going.set()
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._recent: collections.deque[Frame] = collections.deque(maxlen=_RECENT)
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Message | None] = asyncio.Queue(_QUEUE)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def stop(self) -> None:
        """Ask the run to end; `messages` ends soon after."""
        self._stop.set()
        self._going.set()
        self._source.interrupt()

    def pause(self, paused: bool) -> None:
        """Hold the run between two frames, or let it go on."""
        if paused and not self._stop.is_set():
            self._going.clear()
        else:
            self._going.set()

    def ask(self, command: Command) -> None:
        """Have a command carried out before the next frame. What is wrong with it comes back as a message; the run goes on."""
        self._commands.put(command)

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
        end = {"type": "error", "reason": "internal error: the server's output has more"}
        try:
            with self._source as source:
                self._follow(source)
            end = {"type": "end", "reason": "end of the clip"}
        except IncompleteError as error:
            end = {"type": "end", "reason": " ".join(str(error).split())}
        except EsatError as error:
            end = {"type": "error", "reason": " ".join(str(error).split())}
        finally:  # whatever happened: a browser that is not told waits for ever, and so does the server's end
            if self._stop.is_set():
                end = {"type": "end", "reason": "stopped"}
            self._put(Message(json.dumps(end)))
            self._put(None)

    def _follow(self, source: Source) -> None:
        period, next_time = 1 / float(source.rate), time.monotonic()
        for frame in source:
            self._going.wait()
            if self._stop.is_set():
                return
            self._put(self._step(frame))
            if not source.live:  # files play at their own speed at most
                next_time = max(next_time + period, time.monotonic())
                self._stop.wait(max(0.0, next_time - period - time.monotonic()))

    def _step(self, frame: Frame) -> Message:
        if not self._recent:
            with self._in_turn:
                found = [{"id": self._add(frame, box), "box": list(box), "score": 1.0, "state": "TRACKING"} for box in self._boxes]
            body: dict[str, Any] = {"type": "frame", "index": frame.index, "targets": found}
        else:
            while not self._commands.empty():
                self._carry_out(self._commands.get())
            with self._in_turn:
                results = {number + 1: result for number, result in self._tracker.update(frame.image).items()}
            self._metrics.frame(results, self._states)
            self._states = {target: result.state for target, result in results.items()}
            body = describe(frame.index, results, self._tracker.model_config.search_grid)
        self._recent.append(frame)
        picture, factor = encode(frame.image)
        return Message(json.dumps({**body, "scale": factor}), picture)

    def _add(self, frame: Frame, box: Any) -> int:
        if len(self._tracker.target_ids) >= MOST_TARGETS:
            raise StateError(f"{MOST_TARGETS} targets are followed already: remove one first")
        return self._tracker.add(frame.image, box) + 1

    def _carry_out(self, command: Command) -> None:
        seen = next((frame for frame in self._recent if command.index is not None and frame.index >= command.index), self._recent[-1])
        try:
            with self._in_turn:
                targets = [number + 1 for number in self._tracker.target_ids]
                if (command.box is None or command.target is not None) and command.target not in targets:
                    raise StateError(f"there is no target {command.target}: targets are {targets}")
                if command.box is None:
                    self._tracker.remove((command.target or 0) - 1)
                elif command.target is None:
                    self._add(seen, command.box)
                else:
                    self._tracker.restart(command.target - 1, seen.image, command.box)
        except EsatError as error:
            self._put(Message(json.dumps({"type": "note", "reason": " ".join(str(error).split())})))

    def _put(self, message: Message | None) -> None:
        """Hand over from the thread, waiting while the queue is full. A loop that has been closed has nobody who reads."""
        put = self._queue.put(message)
        try:
            done = asyncio.run_coroutine_threadsafe(put, self._loop)
        except RuntimeError:
            put.close()
            return
        done.result()
