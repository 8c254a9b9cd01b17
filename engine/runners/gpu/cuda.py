"""CUDA streams, events and graphs: all that the engine needs a GPU for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from engine.runners.gpu.streams import HostStreams, Mark, Queue, Streams

T = TypeVar("T")
_WARM_UP = 3  # calls before a capture: libraries load their kernels and choose their algorithms in them


class CudaMark:
    """An event that a stream has recorded."""

    def __init__(self, event: torch.cuda.Event):
        self.event = event

    def done(self) -> bool:
        return self.event.query()

    def wait(self) -> None:
        self.event.synchronize()


class CudaStreams:
    """Each queue a stream of its own, none of them the default stream."""

    def __init__(self, device: torch.device):
        self._device = device
        queues: tuple[Queue, ...] = ("upload", "compute", "download")
        self._streams = {queue: torch.cuda.Stream(device) for queue in queues}

    def run(self, queue: Queue, work: Callable[[], object], after: Sequence[Mark] = ()) -> Mark:
        stream = self._streams[queue]
        with torch.cuda.stream(stream):
            for mark in after:
                if isinstance(mark, CudaMark):
                    stream.wait_event(mark.event)
                else:
                    mark.wait()
            work()
            event = torch.cuda.Event()
            event.record(stream)
        return CudaMark(event)

    def caller(self) -> Mark:
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        return CudaMark(event)

    def hand_over(self, after: Mark) -> None:
        if isinstance(after, CudaMark):
            torch.cuda.current_stream(self._device).wait_event(after.event)
        else:
            after.wait()

    def staging(self, size: int, dtype: torch.dtype) -> Tensor:
        with torch.cuda.device(self._device):  # else another device would get a context for it
            return torch.zeros(size, dtype=dtype, pin_memory=True)

    def capture(self, step: Callable[[], T], state: Sequence[Tensor]) -> Callable[[], T]:
        stream = self._streams["compute"]
        self.synchronize()
        with torch.cuda.stream(stream):
            before = [tensor.clone() for tensor in state]
            for _ in range(_WARM_UP):
                step()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # After an error inside, torch.cuda.graph alone would leave the thread on the capture's stream.
        with torch.cuda.stream(stream), torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            results = step()
        with torch.cuda.stream(stream):
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(value)
        stream.synchronize()

        def replay() -> T:
            graph.replay()
            return results

        return replay

    def synchronize(self) -> None:
        torch.cuda.synchronize(self._device)


def streams_for(device: torch.device) -> Streams:
    """CUDA streams on a CUDA device, else `HostStreams`."""
    return CudaStreams(device) if device.type == "cuda" else HostStreams()
