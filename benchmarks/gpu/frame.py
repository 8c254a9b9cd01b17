"""A frame's network on the GPU: the PyTorch model with each attention backend, eager and as one CUDA graph.

Weights are random (speed does not depend on them), but every engine is checked: its bf16 score map may be at most twice as far from float32 as that
of the reference attention in bf16, and a replayed graph has to equal the eager call bit for bit.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import esat_kernels
from benchmarks.gpu.timing import summary
from engine.config import ModelConfig, preset
from engine.model.network import EsatNetwork, Prediction

BATCHES = (1, 4, 16, 32)
ROUNDS = 60


class GraphedNetwork:
    """A network in eval mode whose forward, captured once, is replayed: static inputs are overwritten, static outputs are read."""

    def __init__(self, network: EsatNetwork, batch: int):
        parameter = next(network.parameters())
        sizes = (network.config.template_size, network.config.search_size)
        self.template, self.search = (torch.randn(batch, 3, s, s, device=parameter.device, dtype=parameter.dtype) for s in sizes)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), torch.inference_mode():
            for _ in range(3):
                network(self.template, self.search)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(self._graph):
            self.prediction: Prediction = network(self.template, self.search)

    def __call__(self, template: Tensor, search: Tensor) -> Prediction:
        self.template.copy_(template)
        self.search.copy_(search)
        self._graph.replay()
        return self.prediction


def _network(config: ModelConfig, backend: str, dtype: torch.dtype) -> EsatNetwork:
    torch.manual_seed(0)
    network = EsatNetwork(config, backend)
    for parameter in (network.backbone.pos_embed_z, network.backbone.pos_embed_x):
        torch.nn.init.normal_(parameter, std=0.02)
    return network.to("cuda", dtype).eval()


def _times(call: Any, inputs: tuple[Tensor, Tensor]) -> list[float]:
    """Milliseconds from the call to the end of its work, by events, with a synchronisation per frame."""
    times = []
    for index in range(ROUNDS + 5):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call(*inputs)
        end.record()
        end.synchronize()
        if index >= 5:
            times.append(start.elapsed_time(end))
    return times


def _row(name: str, backend: str, engine: str, batch: int, times: list[float] | None, **checks: Any) -> dict[str, Any]:
    """One result; without times where a check failed."""
    row: dict[str, Any] = {"impl": "ours" if backend != "reference" else "eager", "model": name, "attention": backend, "engine": engine}
    row |= {"scope": "network", "dtype": "bf16", "batch": batch, **checks}
    if times is not None:
        found = summary(times)
        row |= {"median_ms": found["median"], "p99_ms": found["p99"], "fps": 1e3 * batch / found["median"]}
    return row


def _inputs(config: ModelConfig, batch: int) -> tuple[Tensor, Tensor]:
    """The same random template and search image for every network."""
    torch.manual_seed(batch)
    sizes = (config.template_size, config.search_size)
    template, search = (torch.randn(batch, 3, s, s, device="cuda", dtype=torch.bfloat16) for s in sizes)
    return template, search


def _score_map(network: EsatNetwork, dtype: torch.dtype) -> Tensor:
    """float32, without elimination: random weights leave near ties, which rounding would decide."""
    template, search = _inputs(network.config, 1)
    return network(template.to(dtype), search.to(dtype), keep_ratio=1.0).score_map.float()


def accuracy(name: str, backends: list[str]) -> dict[str, float]:
    """Largest error of the score map against float32 on the same rounded weights, for the reference attention and each backend in bf16."""
    config = preset(name)
    with torch.inference_mode():
        exact = _score_map(_network(config, "reference", torch.bfloat16).float(), torch.float32)
        found = {}
        for backend in ("reference", *backends):
            found[backend] = float((_score_map(_network(config, backend, torch.bfloat16), torch.bfloat16) - exact).abs().max())
    return found


def measure(name: str, backend: str, batch: int, accurate: bool) -> list[dict[str, Any]]:
    """Eager and graphed rows of one model, backend and batch."""
    config = preset(name)
    network = _network(config, backend, torch.bfloat16)
    inputs = _inputs(config, batch)
    graphed = GraphedNetwork(network, batch)
    with torch.inference_mode():
        eager = network(*inputs)
        replayed = graphed(*inputs)
        equal = torch.equal(eager.score_map, replayed.score_map) and torch.equal(eager.box, replayed.box)
        checks = {"graph_equals_eager": equal, "ok": equal and accurate}
        engines = {"eager": network, "graph": graphed}
        return [_row(name, backend, key, batch, _times(call, inputs) if checks["ok"] else None, **checks) for key, call in engines.items()]


def _profile(name: str, backend: str) -> list[dict[str, Any]]:
    """The kernels of one frame by time."""
    config = preset(name)
    network = _network(config, backend, torch.bfloat16)
    inputs = _inputs(config, 1)
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.inference_mode():
        network(*inputs)
        with torch.profiler.profile(activities=activities) as profiler:
            network(*inputs)
            torch.cuda.synchronize()
    events = sorted(profiler.key_averages(), key=lambda event: -event.device_time_total)
    return [{"kernel": event.key[:120], "calls": event.count, "total_us": event.device_time_total} for event in events[:20]]


def main(output: Path) -> int:
    backends = [name for name in ("cuda", "triton") if esat_kernels.backends()[name] is None]
    rows: list[dict[str, Any]] = []
    errors = {}
    for name in ("esat-384", "ostrack-384", "esat-s-256"):
        errors[name] = accuracy(name, backends)
        for backend in (*backends, "reference"):
            accurate = errors[name][backend] <= 2 * errors[name]["reference"]
            for batch in BATCHES if name == "esat-384" and backend != "reference" else BATCHES[:1]:
                rows += measure(name, backend, batch, accurate)
        good = bool(backends) and all(row["ok"] for row in rows)
        output.write_text(json.dumps({"ok": good, "rows": rows, "score_map_errors": errors}))
    for row in rows:
        took = f"{row['median_ms']:.3f} ms, {row['fps']:.0f} frames/s" if row["ok"] else f"wrong: {row}"
        print(f"{row['model']} {row['attention']} {row['engine']} batch {row['batch']}: {took}")
    profile = {backend: _profile("esat-384", backend) for backend in backends}
    output.write_text(json.dumps({"ok": good, "rows": rows, "score_map_errors": errors, "profile": profile}))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
