"""What `make gpu` consists of, in order."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Part:
    """One step: a module of this package that takes the path of the JSON file that it writes (with at least "ok")."""

    name: str
    module: str
    purpose: str
    limit_s: int
    arguments: tuple[str, ...] = ()

    def command(self, output: Path) -> list[str]:
        return [sys.executable, "-m", f"benchmarks.gpu.{self.module}", *self.arguments, str(output)]


PARTS = (
    Part("build", "build", "CMake and nvcc build the native library for sm_80 and sm_90a into esat_kernels/", 120),
    Part("tests", "tests", "error budget, elimination row, gradients, graph replay, 1000 equal repetitions on the device", 170),
    Part("sanitize", "sanitize", "compute-sanitizer memcheck and racecheck over small attention calls", 130, ("--all",)),
    Part("attention", "attention", "attention of the four ViT-B sizes against every plain SDPA backend and eager FDA, graph-replayed", 80),
    Part("frame", "frame", "a frame of esat-384 and ostrack-384, eager and as one CUDA graph, batches 1 to 32, and its profile", 90),
)
PEERS = Part("peers", "attention", "attention against torch.compile and FlexAttention, default and max-autotune", 590, ("--compiled",))
