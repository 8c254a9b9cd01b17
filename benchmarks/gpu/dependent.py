"""Programmatic dependent launch, on against off, over a whole frame of esat-384 in bf16 and in fp8: the same bits in every one of many frames, and
what it saves.

What was found goes into the device's table, `esat_kernels/tuned/<device>.json`. Kernels that both modes have do not know in which they run, so there
is one switch: it is on only where in every mode that the device has every frame was the same, and every round with it faster than every one without.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import esat_kernels
from benchmarks.gpu import tables
from benchmarks.gpu.frame import DEVICE, DTYPE, Clock, WholeFrame, times, wait
from benchmarks.gpu.inputs import full_float32, model_weights
from benchmarks.gpu.parts import write
from engine.config import ModelConfig
from engine.runners.gpu.frame import FrameResult
from engine.runners.gpu.network import GpuNetwork, Kernels
from engine.weights.io import Weights
from esat_kernels import _device, _triton, _tuned

FRAMES, ROUNDS = 1000, 3


def equal_frames(first: Callable[[], FrameResult], second: Callable[[], FrameResult], count: int) -> bool:
    """Whether two trackers that start alike say the same of so many frames, to the last bit."""
    found: list[torch.Tensor] = []
    for _ in range(count):
        one, two = first(), second()
        found.append(torch.stack([(one.record != two.record).sum(), (one.maps.score != two.maps.score).sum()]).sum())
    return int(torch.stack(found).sum()) == 0


def modes(config: ModelConfig, device: torch.device) -> list[str]:
    """What a network computes in on this device: other launches."""
    return ["bf16"] if esat_kernels.fp8_unsupported(device, config.dim, int(config.dim * config.mlp_ratio)) else ["bf16", "fp8"]


def measure(weights: Weights, backend: str, device: torch.device = DEVICE, clock: Clock = times, frames: int = FRAMES) -> dict[str, Any]:
    """Of each mode whether frames are equal, and milliseconds of each round; and whether dependent launches pay in all of them."""
    found = {mode: measure_mode(weights, mode, backend, device, clock, frames) for mode in modes(weights.config, device)}
    in_all = {name: all(one[name] for one in found.values()) for name in ("ok", "pays")}
    return {"backend": backend, **in_all, "modes": found}


@torch.no_grad()
def measure_mode(weights: Weights, mode: str, backend: str, device: torch.device, clock: Clock, frames: int) -> dict[str, Any]:
    """One mode's frames and times."""
    network = GpuNetwork(weights, device, DTYPE, Kernels.of(backend), mode == "fp8")
    captured: dict[str, Callable[[], FrameResult]] = {}
    for name in ("off", "on"):
        with _triton.dependent_launches(name == "on"):
            captured[name] = WholeFrame(network, 1).captured()
    equal = equal_frames(captured["off"], captured["on"], frames)
    wait(device)
    found: dict[str, Any] = {"ok": equal, "off_ms": [], "on_ms": []}
    for _ in range(ROUNDS if equal else 0):
        for name, call in captured.items():
            found[f"{name}_ms"].append(clock(call)["median_ms"])
    return {**found, "pays": equal and max(found["on_ms"]) < min(found["off_ms"])}


def keep(device: str, pays: bool) -> None:
    """Write it into the device's table, beside what is there, with the sources that it holds for."""
    tables.write(device, {**tables.read(device), "launches": {"dependent": pays, "sources": _tuned.sources()}})


def main(output: Path) -> int:
    full_float32()
    if not _device.has_dependent_launches(DEVICE):
        print("this device launches no kernel before the one in front is done")
        write(output, {"ok": True, "why": "needs compute capability 9.0"})
        return 0
    backend = "cuda" if esat_kernels.backends()["cuda"] is None else "triton"
    found = measure(model_weights("esat-384"), backend)
    print(found)
    write(output, found)
    keep(torch.cuda.get_device_name(), found["pays"])
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
