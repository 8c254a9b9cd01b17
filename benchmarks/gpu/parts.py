"""What `make gpu` consists of, in order, and what its parts share: how long they may take, and files that are whole even if a part is stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

_END = "ESAT_PART_END"  # environment: the time at which the running part is stopped


@dataclasses.dataclass(frozen=True)
class Part:
    """One step: a module of this package that takes the path of the JSON file that it writes (with at least "ok")."""

    name: str
    module: str
    purpose: str
    limit_s: int
    arguments: tuple[str, ...] = ()
    always: bool = False  # it leaves more than results behind: an earlier call may have done so on another machine

    def command(self, output: Path) -> list[str]:
        return [sys.executable, "-m", f"benchmarks.gpu.{self.module}", *self.arguments, str(output)]

    def environment(self, seconds: float) -> dict[str, str]:
        return {**os.environ, _END: str(time.time() + seconds), "PYTHONUNBUFFERED": "1"}


def seconds_left(unlimited: float) -> float:
    """Until the running part is stopped; `unlimited` for a module that was started by hand."""
    end = os.environ.get(_END)
    return unlimited if end is None else max(0.0, float(end) - time.time())


def write(path: Path, content: dict[str, Any]) -> None:
    """The JSON file of a part. It appears complete: a part may write it often, and be stopped at any time."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)


# What each part takes on the first call is mostly the compiler: "build" and "compile" keep many cores busy, so that the others find all kernels.
# The sanitizer comes last, since it is slow and no other part needs it.
PARTS = (
    Part("build", "build", "CMake and nvcc build the native library for sm_80 and sm_90a into esat_kernels/", 150, always=True),
    Part("compile", "warm", "Triton compiles what the other parts run, in several processes at once", 120, always=True),
    Part("tests", "tests", "the GPU tests: error budgets, gradients, graph replay equal to eager, the loop, 1000 equal repetitions", 180),
    Part("golden", "golden", "golden files of public code through the attention kernels and the engine", 60),
    Part("attention", "attention", "attention of the four ViT-B sizes against every plain SDPA backend and eager FDA, graph-replayed", 90),
    Part(
        "frame", "frame", "network and whole frame as one CUDA graph, batches 1 to 32, eager peers, the cost of FDA, stages of a frame", 120
    ),
    Part(
        "pipeline",
        "pipeline",
        "1080p frames through the device-resident loop, from pinned memory and as NumPy arrays, several targets and streams",
        70,
    ),
    Part("table2", "table2", "the paper's table 2 by the public protocol, honestly, and by our engine: table2.json", 70),
    Part("plots", "plots", "pictures of these results", 20),
    Part("sanitize", "sanitize", "compute-sanitizer memcheck and racecheck over small calls of every kernel", 150, ("--all",)),
)
PEERS = Part("peers", "attention", "attention against torch.compile and FlexAttention, default and max-autotune", 590, ("--compiled",))
PRODUCTS = Part(
    "products",
    "products",
    'each product of a frame, fused kernel against cuBLASLt: the part "engine" of esat_kernels/tuned/<device>.json',
    300,
)
TUNE = Part("tune", "tune", "tiles of the Triton kernels: esat_kernels/tuned/<device>.json", 590)
EXTRA = (PEERS, PRODUCTS, TUNE)  # only when named
MINUTES = 9.4  # of one call: where GPUs are lent, ten minutes a command are common
