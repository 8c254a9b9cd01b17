"""A frame on the GPU: the engine's network alone and the whole frame (crop, network, decode) as one CUDA graph.

An engine has a speed only if its bf16 score map is at most twice as far from float32 as that of the eager model in bf16, at every number of
tokens that a frame has, if a replayed graph equals the eager calls bit for bit, and if 1000 replays give equal bits. `ostrack-384` is the same
engine without forces: the cost of FDA.

    python -m benchmarks.gpu.frame OUTPUT             # esat-384 at batch 1, and its longest kernels
    python -m benchmarks.gpu.frame --rest OUTPUT      # other models and batches, PyTorch's eager model
    python -m benchmarks.gpu.frame --compiled OUTPUT  # PyTorch's model by torch.compile, max-autotune with CUDA graphs
    python -m benchmarks.gpu.frame --nvtx             # one eager frame with an NVTX range for each stage, for nsys and ncu
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import esat_kernels
from benchmarks.gpu.accuracy import DEVICE, DTYPE, NetworkFrame, model_errors, wait
from benchmarks.gpu.inputs import boxes, full_float32, images, model_weights, pictures
from benchmarks.gpu.parts import write
from benchmarks.gpu.timing import summary
from engine.model.network import EsatNetwork
from engine.runners.gpu.cuda import streams_for
from engine.runners.gpu.frame import FramePlan, FrameResult, crop_template
from engine.runners.gpu.network import GpuNetwork, Kernels, Seen
from engine.weights.io import Weights
from esat_kernels import _tuned

REST = {"esat-384": (1, 4, 16), "ostrack-384": (1,), "esat-s-256": (1,)}  # batches; esat-384 once more, with the tiles measured meanwhile
ROUNDS, REPETITIONS = 60, 1000
Clock = Callable[[Callable[[], object]], dict[str, float]]
STAGES = ("crop", "embed", "qkv", "attention", "elimination", "projection and MLP", "head", "decode")


class WholeFrame:
    """Crop, network and next boxes of several targets in one 1080p frame that lies on the device."""

    def __init__(self, network: GpuNetwork, batch: int):
        self.plan = FramePlan(network, streams_for(network.device), [batch])
        staging, memory = self.plan.staging(), self.plan.frames[0][0]
        used = staging.fill(pictures(1)[0])
        memory.memory[:used].copy_(staging.memory[:used])
        for slot, box in enumerate(boxes(batch)):
            self.plan.set_template(slot, crop_template(network, memory, box, True))
            self.plan.boxes[slot] = torch.tensor(box, dtype=torch.float64)
        wait(network.device)

    def eager(self) -> FrameResult:
        return self.plan.step(0, True)

    def captured(self) -> Callable[[], FrameResult]:
        return self.plan.executable(0, True)


def times(call: Callable[[], object]) -> dict[str, float]:
    """Milliseconds by events around a call that is queued behind another, and by the host's clock from a call to the end of a synchronisation."""
    device_ms, host_ms = [], []
    for index in range(ROUNDS + 5):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        begin = time.perf_counter()
        call()
        torch.cuda.synchronize()
        waited = time.perf_counter() - begin
        call()
        start.record()
        call()
        end.record()
        end.synchronize()
        if index >= 5:
            device_ms.append(start.elapsed_time(end))
            host_ms.append(1e3 * waited)
    found = summary(device_ms)
    return {"median_ms": found["median"], "p99_ms": found["p99"], "host_median_ms": summary(host_ms)["median"]}


def row_of(impl: str, model: str, backend: str, mode: str, scope: str, batch: int, **checks: Any) -> dict[str, Any]:
    return {"impl": impl, "model": model, "backend": backend, "mode": mode, "scope": scope, "dtype": "bf16", "batch": batch, **checks}


def _timed(row: dict[str, Any], call: Callable[[], object], clock: Clock = times) -> dict[str, Any]:
    """The row with times, if its checks hold."""
    if row["ok"]:
        row |= clock(call)
        row["fps"] = 1e3 * row["batch"] / row["median_ms"]
    return row


def repetitions_equal(replay: Callable[[], Seen], count: int) -> bool:
    """Whether all replays give the bits of the first."""
    first = replay().maps.score.clone()
    different = torch.zeros((), dtype=torch.int64, device=first.device)
    for _ in range(count):
        different += (replay().maps.score != first).sum()
    return int(different) == 0


def engine_rows(
    weights: Weights,
    backend: str,
    batches: tuple[int, ...],
    accurate: bool,
    device: torch.device = DEVICE,
    clock: Clock = times,
    repetitions: int = REPETITIONS,
) -> list[dict[str, Any]]:
    """The engine's rows of one model and backend."""
    rows = []
    name = weights.config.name
    network = GpuNetwork(weights, device, DTYPE, Kernels.of(backend))
    for batch in batches:
        alone = NetworkFrame(network, *images(weights.config, batch, device))
        eager, replay = alone.eager(), alone.captured()
        seen = replay()
        equal = torch.equal(seen.maps.score, eager.maps.score) and torch.equal(seen.maps.size, eager.maps.size)
        wait(device)
        checks = {"graph_equals_eager": equal, "ok": equal and accurate}
        if batch == 1:
            checks["repetitions_equal"] = repetitions_equal(replay, repetitions)
            checks["ok"] = checks["ok"] and checks["repetitions_equal"]
            rows.append(_timed(row_of("ours", name, backend, "eager", "network", batch, **checks), alone.eager, clock))
        rows.append(_timed(row_of("ours", name, backend, "graph", "network", batch, **checks), replay, clock))
        whole = WholeFrame(network, batch)
        rows.append(_timed(row_of("ours", name, backend, "graph", "tracker", batch, ok=checks["ok"]), whole.captured(), clock))
    return rows


def peer_rows(weights: Weights, compiled: bool = False) -> list[dict[str, Any]]:
    """The public formulation in PyTorch, bf16, N x N matrices: eager and as a graph, or compiled with all that Inductor has."""
    model: EsatNetwork = weights.model("reference").to(DEVICE, DTYPE)
    template, search = (image.to(DTYPE) for image in images(weights.config, 1, DEVICE))
    name = weights.config.name

    @torch.no_grad()
    def eager() -> Tensor:
        return model(template, search).score_map

    if compiled:
        torch.compiler.reset()
        fast = torch.compile(eager, mode="max-autotune", dynamic=False)
        expected, found = eager(), fast()
        error = float((found.float() - expected.float()).abs().max())
        # Other roundings, and with random weights other tokens: the difference is told, and only what is no number is wrong.
        row = row_of("compiled", name, "max-autotune", "graph", "network", 1, ok=math.isfinite(error), difference_to_eager=error)
        return [_timed(row, fast)]
    replay = streams_for(DEVICE).capture(eager, ())
    modes = {"eager": eager, "graph": replay}
    return [_timed(row_of("eager", name, "reference", mode, "network", 1, ok=True), call) for mode, call in modes.items()]


def stages(weights: Weights, backend: str) -> dict[str, float]:
    """Microseconds of kernels in each stage of one eager frame."""
    whole = WholeFrame(GpuNetwork(weights, DEVICE, DTYPE, Kernels.of(backend)), 1)
    whole.eager()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        whole.eager()
        torch.cuda.synchronize()
    events = profiler.key_averages()
    host = torch.autograd.DeviceType.CPU  # a stage is a range of the host; its time is that of the kernels that were launched in it
    found = {event.key: float(event.device_time_total) for event in events if event.key in STAGES and event.device_type == host}
    kernels = [event for event in events if event.device_type != host and event.key not in STAGES]
    kernels.sort(key=lambda event: -event.device_time_total)
    for event in kernels[:25]:
        found[f"kernel: {event.key[:100]} x {event.count}"] = float(event.device_time_total)
    return found


def nvtx() -> None:
    """One eager frame of esat-384 with NVTX ranges, for a profiler around this process."""
    backend = "cuda" if esat_kernels.backends()["cuda"] is None else "triton"
    whole = WholeFrame(GpuNetwork(model_weights("esat-384"), DEVICE, DTYPE, Kernels.of(backend)), 1)
    whole.eager()
    torch.cuda.synchronize()
    with torch.autograd.profiler.emit_nvtx():
        whole.eager()
        torch.cuda.synchronize()


def attempt(row: dict[str, Any], rows: list[dict[str, Any]], measure: Callable[[], list[dict[str, Any]]]) -> None:
    """Add what is measured, or `row` with what went wrong: one implementation takes no other with it."""
    try:
        rows += measure()
    except Exception as error:  # noqa: BLE001
        rows.append({**row, "ok": False, "why": f"{type(error).__name__}: {str(error)[:600]}"})


class Report:
    """What has been measured, written anew after every step."""

    def __init__(self, output: Path):
        self._output = output
        self.rows: list[dict[str, Any]] = []
        self.content: dict[str, Any] = {"ok": False, "rows": self.rows, "score_map_errors": {}, "stages_us": {}}

    def write(self, ok: bool = False) -> None:
        write(self._output, {**self.content, "ok": ok})

    def model(self, name: str, backend: str, batches: tuple[int, ...]) -> None:
        """Errors and times of the engine."""
        weights = model_weights(name)

        def ours() -> list[dict[str, Any]]:
            errors = model_errors(weights, backend)
            self.content["score_map_errors"].setdefault(name, {})[backend] = errors
            self.write()
            return engine_rows(weights, backend, batches, errors["ok"])

        attempt(row_of("ours", name, backend, "graph", "network", 1), self.rows, ours)
        self.write()

    def peer(self, name: str, compiled: bool = False) -> None:
        row = row_of("compiled" if compiled else "eager", name, "reference", "graph", "network", 1)
        attempt(row, self.rows, lambda: peer_rows(model_weights(name), compiled))
        self.write()

    def longest_kernels(self, backend: str) -> None:
        try:
            self.content["stages_us"][backend] = stages(model_weights("esat-384"), backend)
        except Exception as error:  # noqa: BLE001  a profiler that cannot run here is no fault of the engine
            print(f"no stages of {backend}: {error}")
        self.write()

    def end(self) -> int:
        """0 if all that was measured is right."""
        table = _tuned.about(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
        if table is not None:
            print(f"table of this device: {table}")
        for backend, found in self.content["stages_us"].items():
            print("\n".join(f"{backend} {what}: {us:.1f} us" for what, us in found.items()))
        for name, errors in self.content["score_map_errors"].items():
            print(f"{name} score map against float32: {errors}")
        for row in self.rows:
            took = f"{row['median_ms']:.3f} ms, {row['fps']:.0f} frames/s" if row["ok"] else f"wrong: {row}"
            print(f"{row['model']} {row['impl']} {row['backend']} {row['mode']} {row['scope']} batch {row['batch']}: {took}")
        good = bool(self.rows) and all(row["ok"] for row in self.rows)
        self.write(good)
        return 0 if good else 1


def main(arguments: list[str]) -> int:
    *options, output = arguments
    full_float32()
    backends = [name for name in ("cuda", "triton") if esat_kernels.backends()[name] is None]
    report = Report(Path(output))
    if "--compiled" in options:
        for name in ("ostrack-384", "esat-384"):
            report.peer(name, compiled=True)
    elif "--rest" in options:
        for name, batches in REST.items():
            for backend in backends[: 1 if name == "esat-384" else 2]:
                report.model(name, backend, batches)
            report.peer(name)
    else:
        for backend in backends:
            report.model("esat-384", backend, (1,))
            report.longest_kernels(backend)
    return report.end()


if __name__ == "__main__":
    if sys.argv[1] == "--nvtx":
        nvtx()
    else:
        sys.exit(main(sys.argv[1:]))
