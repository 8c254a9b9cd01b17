"""The order of work on a device: three queues, marks that say when something is done, and the capture of a frame.

`CudaStreams` (cuda.py) makes the queues CUDA streams; `HostStreams` does all work at once, so that the engine runs on a CPU too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor

Queue = Literal["upload", "compute", "download"]
T = TypeVar("T")


class Mark(Protocol):
    """A point of a queue."""

    def done(self) -> bool:
        """Whether all work before the point is done."""

    def wait(self) -> None:
        """Let the host wait for it."""


class Streams(Protocol):
    """Work of one queue runs in the order in which it was given; queues wait for each other only where `after` says so."""

    def run(self, queue: Queue, work: Callable[[], object], after: Sequence[Mark] = ()) -> Mark:
        """Give `work` to a queue, to start after these marks. Returns the mark behind it. The host does not wait."""

    def caller(self) -> Mark:
        """The mark behind what the caller has given to his own queue by now: the work that makes a tensor which he passes in."""

    def hand_over(self, after: Mark) -> None:
        """Let what the caller gives to his own queue from now on wait for a mark. The host does not wait."""

    def staging(self, size: int, dtype: torch.dtype) -> Tensor:
        """Host memory [size] that a queue can copy from and to while the host goes on."""

    def capture(self, step: Callable[[], T], state: Sequence[Tensor]) -> Callable[[], T]:
        """A function that does `step`'s work when the compute queue calls it, with the same tensors as results each time.

        `step` may run several times meanwhile: tensors of `state` keep their values. The host waits for all queues.
        """

    def synchronize(self) -> None:
        """Let the host wait for all queues."""


class Done:
    """The mark of work that is done already."""

    def done(self) -> bool:
        return True

    def wait(self) -> None:
        return


class HostStreams:
    """Does all work when it is given."""

    def run(self, queue: Queue, work: Callable[[], object], after: Sequence[Mark] = ()) -> Mark:
        work()
        return Done()

    def caller(self) -> Mark:
        return Done()

    def hand_over(self, after: Mark) -> None:
        after.wait()

    def staging(self, size: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(size, dtype=dtype)

    def capture(self, step: Callable[[], T], state: Sequence[Tensor]) -> Callable[[], T]:
        return step

    def synchronize(self) -> None:
        return
