"""Several targets in one 1080p frame by the engine: one `MultiTracker` against as many separate trackers.

That their boxes agree is a GPU test in float32: in bf16 the tiles follow the batch and round differently, and random weights carry that far.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import esat_kernels
from benchmarks import targets
from benchmarks.gpu.inputs import model_weights
from benchmarks.gpu.parts import write
from engine.runners.gpu.runner import GpuRunner

COUNTS, SECONDS = (1, 4, 16), 1.5


def main(output: Path) -> int:
    backends = [name for name in ("cuda", "triton") if esat_kernels.backends()[name] is None]
    rows: list[dict[str, Any]] = []
    for backend in backends[:1]:
        runner = GpuRunner(model_weights("esat-384"), "cuda", "bf16", backend)
        for count in COUNTS:
            found = targets.measure(runner, count, SECONDS)
            rows.append({"model": "esat-384", "backend": backend, **found, "ok": math.isfinite(found["max_difference_px"])})
            print(rows[-1], flush=True)
            write(output, {"ok": False, "rows": rows})
    good = bool(rows) and all(row["ok"] for row in rows)
    write(output, {"ok": good, "rows": rows})
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
