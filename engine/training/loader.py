"""Threads that make batches ahead of the loop."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable

from engine.training.pairs import Batch


class Loader:
    """Batches of the steps to come, made by threads ahead of time, handed out in order."""

    def __init__(self, make: Callable[[int], Batch], first_step: int, threads: int, ahead: int = 3):
        self._make, self._ahead = make, ahead
        self._next = first_step
        self._slots: dict[int, queue.Queue[Batch | Exception]] = {}
        self._tasks: queue.Queue[int | None] = queue.Queue()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        self._planned = first_step
        for thread in self._threads:
            thread.start()
        self._plan()

    def _plan(self) -> None:
        while self._planned < self._next + self._ahead:
            self._slots[self._planned] = queue.Queue(1)
            self._tasks.put(self._planned)
            self._planned += 1

    def _work(self) -> None:
        while (step := self._tasks.get()) is not None:
            try:
                self._slots[step].put(self._make(step))
            except Exception as error:  # noqa: BLE001  handed to the loop, which raises it
                self._slots[step].put(error)

    def take(self) -> Batch:
        """The next step's batch."""
        item = self._slots[self._next].get()
        del self._slots[self._next]
        self._next += 1
        self._plan()
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        """Stop the threads after the batches they are at, and wait for them: the interpreter's end would abort one in the middle of a kernel."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()
