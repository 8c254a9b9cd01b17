"""Compiles the Triton kernels that other parts run, by running them once: each job is a process, and Triton keeps what it compiled on disk.

One after the other these would take longer than all measurements. What fails here fails again in its own part, which then says more.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.gpu.children import run_together
from benchmarks.gpu.parts import seconds_left, write

if TYPE_CHECKING:
    from engine.runners.gpu.network import GpuNetwork

BATCHES = (1, 4, 16)  # larger ones take library products


def _golden(dtype: str) -> None:
    from benchmarks.gpu import golden
    from conformance.findings import Target

    for path in golden.files():
        for row in golden.rows(path, Target("triton", dtype, "cuda")):
            print(row["file"], row["ok"])


def _frame(model: str) -> None:
    from benchmarks.gpu.frame import DEVICE, DTYPE
    from benchmarks.gpu.inputs import model_weights
    from engine.runners.gpu.network import GpuNetwork, Kernels

    frames(GpuNetwork(model_weights(model), DEVICE, DTYPE, Kernels.of("triton")))


def frames(network: GpuNetwork) -> None:
    """A frame of every batch."""
    from benchmarks.gpu.frame import WholeFrame

    for batch in BATCHES:
        WholeFrame(network, batch).eager()


def _attention() -> None:
    from benchmarks.gpu import attention

    for tokens in attention.TOKENS:
        for call in attention._ours().values():
            call(*attention._inputs(tokens, 1)[0])
    for tokens in attention.TRAINING:
        attention._backward(tokens)


def _sanitized(backend: str) -> None:
    from benchmarks.gpu import sanitize

    sanitize.calls(backend)


JOBS: dict[str, Callable[[], None]] = {
    **{f"golden {dtype}": functools.partial(_golden, dtype) for dtype in ("bf16", "fp16", "fp32")},
    **{f"frame {model}": functools.partial(_frame, model) for model in ("esat-384", "ostrack-384", "esat-s-256")},
    "attention": _attention,
    **{f"sanitize {backend}": functools.partial(_sanitized, backend) for backend in ("triton", "frame")},
}


def main(output: Path) -> int:
    commands = {name: [sys.executable, "-m", "benchmarks.gpu.warm", "--job", name] for name in JOBS}
    threads = max(1, (os.cpu_count() or 1) // len(JOBS))
    ended = run_together(commands, seconds_left(110) - 5, {**os.environ, "OMP_NUM_THREADS": str(threads)})
    jobs = {name: {"code": one.code, "seconds": round(one.seconds, 1), "output_end": one.output[-800:]} for name, one in ended.items()}
    for name, one in jobs.items():
        print(f"{name}: {'stopped' if one['code'] is None else one['code']}, {one['seconds']} s")
    good = all(one.code == 0 for one in ended.values())
    write(output, {"ok": good, "jobs": jobs})
    return 0 if good else 1


if __name__ == "__main__":
    if sys.argv[1] == "--job":
        JOBS[sys.argv[2]]()
    else:
        sys.exit(main(Path(sys.argv[1])))
