"""Frames/s of the paper's table 2 on this device, into `table2.json` beside the other results: by the public protocol, honestly, and ours."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import esat_kernels
from benchmarks import table2

SECONDS = 0.7


def main(output: Path) -> int:
    backends = [name for name in ("cuda", "triton") if esat_kernels.backends()[name] is None]
    measurements = [entry for dtype in ("fp32", "bf16") for entry in table2.measure("cuda", dtype, ["public", "honest"], SECONDS)]
    if backends:  # the faster one is ours
        found = [list(table2.measure("cuda", "bf16", ["engine"], SECONDS, backend)) for backend in backends]
        measurements += max(found, key=lambda entries: entries[-1]["fps"])
    table2.keep(measurements, output.parent)
    for entry in measurements:
        print(f"FDA {entry['fda']}, position heads {entry['position']}, {entry['protocol']} {entry['dtype']}: {entry['fps']} frames/s")
    output.write_text(json.dumps({"ok": bool(backends), "measurements": measurements}))
    return 0 if backends else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
