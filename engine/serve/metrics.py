"""Counters for Prometheus: frames, latency, lost targets."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from engine.tracking.state import TargetState
from engine.tracking.target import Result

_BUCKETS = (1, 2, 5, 10, 20, 33, 50, 100, 200, 500, 1000)  # milliseconds


class Metrics:
    """One server's numbers, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._frames = Counter("esat_frames", "Frames tracked.", registry=self.registry)
        self._lost = Counter(
            "esat_lost_targets", "Times that a target became LOST; one absence may count several times.", registry=self.registry
        )
        self._latency = Histogram(
            "esat_frame_latency_ms", "Milliseconds of crop, network and decode.", buckets=_BUCKETS, registry=self.registry
        )

    def frame(self, results: Mapping[int, Result], before: Mapping[int, TargetState]) -> None:
        """Count one frame. results: of each target; before: the targets' states in the frame before."""
        if not results:
            return
        self._frames.inc()
        self._latency.observe(next(iter(results.values())).timings_ms["total"])
        for target, result in results.items():
            if result.state is TargetState.LOST and before.get(target) is not TargetState.LOST:
                self._lost.inc()

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
