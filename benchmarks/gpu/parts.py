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
    Part("build", "build", "CMake and nvcc build the native library for sm_80 and sm_90a into esat_kernels/", 95),
    Part("tests", "tests", "the GPU tests: error budgets, gradients, graph replay equal to eager, the loop, 1000 equal repetitions", 120),
    Part("sanitize", "sanitize", "compute-sanitizer memcheck and racecheck over small calls of every kernel", 125, ("--all",)),
    Part("golden", "golden", "golden files of public code through the attention kernels and the engine", 30),
    Part("attention", "attention", "attention of the four ViT-B sizes against every plain SDPA backend and eager FDA, graph-replayed", 50),
    Part(
        "frame", "frame", "network and whole frame as one CUDA graph, batches 1 to 32, eager peers, the cost of FDA, stages of a frame", 80
    ),
    Part(
        "pipeline",
        "pipeline",
        "1080p frames through the device-resident loop, from pinned memory and as NumPy arrays, several targets and streams",
        40,
    ),
    Part("table2", "table2", "the paper's table 2 by the public protocol, honestly, and by our engine: table2.json", 45),
    Part("plots", "plots", "pictures of these results", 10),
)
PEERS = Part("peers", "attention", "attention against torch.compile and FlexAttention, default and max-autotune", 590, ("--compiled",))
PRODUCTS = Part("products", "products", "each product of a frame, fused kernel against cuBLASLt: an entry for engine/gpu/choices.json", 300)
TUNE = Part("tune", "tune", "tiles of the Triton kernels: esat_kernels/tuned/<device>.json", 590)
EXTRA = (PEERS, PRODUCTS, TUNE)  # only when named
