"""What `make gpu` consists of, in the order of what it tells, and what its parts share: the time they have, and files that are whole even if a
part is stopped.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
WORK = REPOSITORY / "build" / "gpu"  # results and compiled kernels; git ignores it
TRITON_CACHE = WORK / "triton"
LIBRARY = REPOSITORY / "esat_kernels" / "libesat_cuda.so"
STRETCH = 2.5  # times the planned time that a part may take
FIRST_STAGES = ("a", "b")
EARLIER = ".earlier"  # the suffix of what an earlier call did not end
_END = "ESAT_PART_END"  # environment: the time at which the running part is stopped


@dataclasses.dataclass(frozen=True)
class Part:
    """One step: a module of this package that takes the path of the JSON file that it writes (with at least "ok")."""

    name: str
    module: str
    purpose: str
    planned_s: int  # a guess, since no GPU was at hand: the sum is kept, and what one part does not need another may take
    arguments: tuple[str, ...] = ()
    leaves: Path | None = None  # what others need of it beside its results: where that is missing, it is done again
    follows: tuple[str, ...] = ()  # the parts whose results it goes on from: once one has run again, so has this one to

    def command(self, output: Path) -> list[str]:
        return [sys.executable, "-m", f"benchmarks.gpu.{self.module}", *self.arguments, str(output)]

    def environment(self, seconds: float) -> dict[str, str]:
        return {**os.environ, _END: str(time.time() + seconds), "PYTHONUNBUFFERED": "1", "TRITON_CACHE_DIR": str(TRITON_CACHE)}


def allowed_s(part: Part, remaining: float) -> float:
    """How long a part may take of what remains: what others saved too, but so much that one which hangs leaves time behind it."""
    return min(STRETCH * part.planned_s, remaining)


def fits(part: Part, remaining: float, least_s: float) -> bool:
    """Whether starting it makes sense: most of what it does may still get done. The first stages are always worth a try."""
    first = any(part.name == other.name for name in FIRST_STAGES for other in STAGES[name])
    return remaining >= (least_s if first else max(least_s, part.planned_s / 2))


def seconds_left(unlimited: float) -> float:
    """Until the running part is stopped; `unlimited` for a module that was started by hand."""
    end = os.environ.get(_END)
    return unlimited if end is None else max(0.0, float(end) - time.time())


def read(path: Path) -> dict[str, Any]:
    """A part's file; empty if it is missing or no JSON."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def earlier(output: Path) -> dict[str, Any]:
    """What a call before this one, whose results still hold, wrote into this file and did not end; empty if there is none."""
    return read(output.with_suffix(EARLIER))


def write(path: Path, content: dict[str, Any]) -> None:
    """The JSON file of a part. It appears complete: a part may write it often, and be stopped at any time."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)


# Stages: is it right and fast at all; what a frame costs and where; the rest.
STAGES: dict[str, tuple[Part, ...]] = {
    "a": (
        Part("library", "build", "the CUDA library is loaded; nvcc builds it if it is missing or of other sources", 12, leaves=LIBRARY),
        Part("attention", "attention", "CUDA and Triton attention right, and timed against every plain SDPA backend, at four sizes", 30),
        Part("hopper", "hopper", "on a Hopper GPU its own CUDA attention kernel: right, and timed beside the other ones", 18),
    ),
    "b": (
        Part("compile", "warm", "Triton compiles the kernels of an esat-384 frame, in several processes", 25, ("--frame",), TRITON_CACHE),
        Part("frame", "frame", "esat-384, batch 1: right at every number of tokens, one graph, its time, its 25 longest kernels", 50),
        Part("counters", "counters", "Nsight Compute's full set for one attention and three products", 45),
    ),
    "c": (
        Part("compile-rest", "warm", "Triton compiles what the parts below run, in several processes", 40, ("--rest",), TRITON_CACHE),
        Part("products", "products", "every tile of each product, right and timed, beside cuBLASLt; likewise attention and the head", 50),
        Part(
            "compile-tiles",
            "warm",
            "Triton compiles a frame with the fastest tiles of each product",
            30,
            ("--tiles",),
            TRITON_CACHE,
            follows=("products",),
        ),
        Part(
            "frame-tiles",
            "frame_tiles",
            "the fastest tiles once more, each within the captured frame: what is faster there is taken",
            35,
            follows=("products",),
        ),
        Part(
            "tests", "tests", "the GPU tests: error budgets, gradients, graph replay equal to eager, the loop, 1000 equal repetitions", 55
        ),
        Part("golden", "golden", "golden files of public code through the attention kernels and the engine", 15),
        Part("frames", "frame", "other models and batches, what FDA costs in a frame, PyTorch's eager model", 20, ("--rest",)),
        Part("fp8", "fp8", "eight-bit products: every tile right and timed beside bf16, and a frame in fp8 beside one in bf16", 20),
        Part("pipeline", "pipeline", "1080p frames through the device-resident loop: pinned memory, NumPy arrays, targets, streams", 20),
        Part("targets", "targets", "several targets in one frame against separate trackers", 15),
        Part("memcheck", "sanitize", "compute-sanitizer memcheck over small calls of every kernel", 25, ("--all", "memcheck")),
        Part("racecheck", "sanitize", "racecheck; of the sm_80 CUDA kernel alone it decides", 15, ("--all", "racecheck")),
        # Last: where it pays, every kernel behind it would have to be compiled again.
        Part(
            "dependent",
            "dependent",
            "a whole frame whose kernels are launched before the one in front is done: equal, and its time",
            20,
            follows=("frame-tiles", "fp8"),  # a frame with their tiles
        ),
    ),
}
PARTS = tuple(part for stage in STAGES.values() for part in stage)
# Behind the others, with what time is left.
PEERS = (
    Part("peers-frame", "frame", "a frame by torch.compile (max-autotune, CUDA graphs), plain and with FDA", 180, ("--compiled",)),
    Part("peers", "attention", "attention against torch.compile and FlexAttention, default and max-autotune", 180, ("--compiled",)),
)
EXTRA = (  # only when named
    Part("training", "attention", "forward and backward of the Triton attention against plain SDPA", 60, ("--training",)),
    Part("table2", "table2", "the paper's table 2 by the public protocol, honestly, and by our engine: table2.json", 70),
    Part("plots", "plots", "pictures of these results", 20),
)
MINUTES = 9.4  # of one call
