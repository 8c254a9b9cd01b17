"""A device on which work happens as late, or as early, as its order allows: what it computes may not depend on when.

Each policy names the queues that work off whatever they may at once; the others work only when somebody waits for them. "random" decides
before each call. A wait that is missing lets one of them read what is not there yet, or overwrite what is still needed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

QUEUES = ("caller", "upload", "compute", "download")  # the first one is not the engine's
POLICIES = [(), ("upload",), ("compute",), ("upload", "compute"), ("download",), ("random",)]


class LateMark:
    def __init__(self, streams: LateStreams, queue: str, index: int):
        self._streams, self.queue, self.index = streams, queue, index

    def done(self) -> bool:
        self._streams.work()
        return self._streams.finished[self.queue] > self.index

    def wait(self) -> None:
        if ("host", self.queue) not in self._streams.ignored:
            self._streams.finish(self.queue, self.index)


class LateStreams:
    """ignored: pairs of who waits (a queue or "host") and the queue that is waited for: such waits are left out."""

    def __init__(self, policy: Sequence[str], ignored: Sequence[object] = (), seed: int = 0):
        self._policy, self.ignored = tuple(policy), tuple(ignored)
        self._random = random.Random(seed)
        self._queues: dict[str, list[tuple[Callable[[], object], list[LateMark]]]] = {queue: [] for queue in QUEUES}
        self.finished = dict.fromkeys(QUEUES, 0)

    def run(self, queue: str, work: Callable[[], object], after: Sequence[object] = ()) -> LateMark:
        marks = [mark for mark in after if isinstance(mark, LateMark) and (queue, mark.queue) not in self.ignored]
        self._queues[queue].append((work, marks))
        self.work()
        return LateMark(self, queue, len(self._queues[queue]) - 1)

    def finish(self, queue: str, index: int) -> None:
        while self.finished[queue] <= index:
            work, marks = self._queues[queue][self.finished[queue]]
            for mark in marks:
                self.finish(mark.queue, mark.index)
            work()
            self.finished[queue] += 1

    def work(self) -> None:
        """What the policy does unasked."""
        eager = self._policy
        if eager == ("random",):
            eager = tuple(queue for queue in QUEUES if self._random.random() < 0.4)
        for queue in eager * 2:
            while self.finished[queue] < len(self._queues[queue]):
                work, marks = self._queues[queue][self.finished[queue]]
                if any(self.finished[mark.queue] <= mark.index for mark in marks):
                    break
                work()
                self.finished[queue] += 1

    def caller(self) -> LateMark:
        return LateMark(self, "caller", len(self._queues["caller"]) - 1)

    def hand_over(self, after: LateMark) -> None:
        if ("caller", after.queue) not in self.ignored:
            self._queues["caller"].append((lambda: None, [after]))

    def staging(self, size: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(size, dtype=dtype)

    def capture(self, step: Callable[[], object], state: Sequence[Tensor]) -> Callable[[], object]:
        self.synchronize()
        return step

    def synchronize(self) -> None:
        for queue in QUEUES:
            self.finish(queue, len(self._queues[queue]) - 1)
