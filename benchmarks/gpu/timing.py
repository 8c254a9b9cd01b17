"""Times GPU work by replaying CUDA graphs between events, implementations in turn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from benchmarks import harness

Work = Callable[[], object]
FLUSH_BYTES = 256 * 2**20  # several times the L2 of an H200 (60 MB)
_ROTATED_BYTES = 128 * 2**20  # twice the L2


def copies(size: int) -> int:
    """How many copies of `size` bytes calls must take in turn so that none finds its own in the L2: a frame reads each weight once."""
    return -(-_ROTATED_BYTES // size)


class Graph:
    """Calls captured as one CUDA graph; replays give the time of one call in microseconds."""

    def __init__(self, works: list[Work], warmup: int = 3):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(warmup):
                for work in works:
                    work()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        self._calls = len(works)
        self._graph = torch.cuda.CUDAGraph()
        # The outer context: after an error inside, torch.cuda.graph alone would leave the thread on the capture's stream.
        with torch.cuda.stream(stream), torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            for work in works:
                work()

    def replay_us(self) -> float:
        return 1e3 * device_ms(self._graph.replay) / self._calls


def device_ms(replay: Work) -> float:
    """Milliseconds of one replay, behind another one that keeps the device busy until it is queued."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    replay()
    start.record()
    replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def interleaved(graphs: dict[str, Graph], rounds: int) -> dict[str, list[float]]:
    """Microseconds of each graph's call, one replay of every graph per round (A B C A B C ...), after two rounds of warm-up."""
    return harness.rounds({name: graph.replay_us for name, graph in graphs.items()}, least=rounds, warm_up=2)


def cold_us(work: Work, rounds: int = 15) -> float:
    """Median time of a call whose inputs have left the L2 cache: a graph that flushes and calls, less one that only flushes."""
    flushed = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")

    def flush() -> None:
        flushed.zero_()

    graphs = {"with": Graph([flush, work] * 8), "without": Graph([flush] * 8)}
    times = interleaved(graphs, rounds)
    return 2 * float(np.median(times["with"])) - float(np.median(times["without"]))


def summary(times: list[float]) -> dict[str, float]:
    return {"median": float(np.median(times)), "p01": float(np.quantile(times, 0.01)), "p99": float(np.quantile(times, 0.99))}
