"""compute-sanitizer over small calls of every attention kernel, and over a frame of the engine (not as a graph), which calls all others.
Some virtual machines refuse it: that is recorded, and is no failure of the kernels. Of racecheck's findings those in the sm_80 CUDA kernel decide:
it knows Triton's barriers in part only, and reports hazards that are none; whether it knows the Hopper kernel's, which are of that kind, is not
known. That kernel is watched in a process of its own.

`--all TOOL OUTPUT` starts a tool; `--calls cuda|hopper|triton|frame` makes the calls that they watch.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from benchmarks.gpu.children import run_together
from benchmarks.gpu.parts import seconds_left, write

BACKENDS = ("cuda", "hopper", "triton", "frame")
_NEEDS = {"hopper": "cuda", "frame": "triton"}  # whose name among the backends is another
TOOLS = ("memcheck", "racecheck")
REFUSALS = ("Device not supported", "not supported on this", "Unable to initialize", "LibraryNotLoaded", "error 999")


def calls(backend: str) -> None:
    """Ragged sizes, every tile height and head dimension of one backend. Nothing of "hopper" on another device."""
    import torch

    if backend == "frame":
        return frame()

    from esat_kernels import testing
    from esat_kernels.attention import cuda, triton
    from esat_kernels.attention.common import Scores

    if backend == "hopper" and torch.cuda.get_device_capability() != (9, 0):
        return
    for tokens, head_dim in ((1, 64), (65, 64), (153, 64), *((97, width) for width in cuda.HEAD_DIMS if width != 64)):
        case = testing.make_case("near", heads=2, tokens=tokens, head_dim=head_dim, dtype=torch.bfloat16, strided=True)
        q, k, v = (testing.move(t, "cuda") for t in (case.q, case.k, case.v))
        wanted = Scores(max(1, tokens // 5), 0)
        if backend == "triton":
            out, _, lse = triton.forward(q, k, v, case.forces, wanted)
            triton.backward(torch.ones_like(out), q, k, v, out, lse, case.forces)
        elif backend == "cuda":
            for rows in cuda.HEIGHTS:
                cuda.forward(q, k, v, case.forces, wanted, rows=rows)
        elif head_dim == 64:
            for rows in cuda.HOPPER_HEIGHTS:
                cuda.forward(q, k, v, case.forces, wanted, rows=rows, kernel="sm_90a")
    torch.cuda.synchronize()


def frame() -> None:
    """Two targets of a small network in one frame, cut off at its border: crop, products, elimination, decode, by the Triton kernels."""
    import torch

    from benchmarks.gpu.inputs import pictures, small_weights
    from engine.runners.gpu.frame import FramePlan, crop_template
    from engine.runners.gpu.network import GpuNetwork, Kernels
    from engine.runners.gpu.streams import HostStreams

    network = GpuNetwork(small_weights(), torch.device("cuda"), torch.bfloat16, Kernels.of("triton"))
    plan = FramePlan(network, HostStreams(), [2])
    picture = pictures(1, 97, 131)[0]
    staging = plan.staging()
    used = staging.fill(picture)
    memory = plan.frames[0][0]
    memory.memory[:used].copy_(staging.memory[:used])
    for slot, box in enumerate(((3.0, 5.0, 30.0, 24.0), (100.0, 60.0, 25.0, 30.0))):
        plan.set_template(slot, crop_template(network, memory, box, True))
        plan.boxes[slot] = torch.tensor(box, dtype=torch.float64)
    plan.step(0, True)
    torch.cuda.synchronize()


def verdict(code: int, text: str) -> str:
    if any(refusal in text for refusal in REFUSALS):
        return "refused by this machine"
    summary = re.search(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)", text)
    return "clean" if code == 0 and summary is not None and summary[1] == "0" else "errors"


def commands(tool: str, name: str) -> dict[str, list[str]]:
    """What is run, by its name, all at once: most of the time goes into starting PyTorch under the tool.

    Errors that API calls return are left to PyTorch, which asks for things that a driver need not have.
    """
    options = {"memcheck": ["--report-api-errors", "no"], "racecheck": []}
    python = [sys.executable, "-m", "benchmarks.gpu.sanitize", "--calls"]
    return {f"{backend} {name}": [tool, "--tool", name, *options[name], "--error-exitcode", "9", *python, backend] for backend in BACKENDS}


def run(tool: str | None, name: str, missing: dict[str, str | None], seconds: float) -> dict[str, dict[str, object]]:
    """A verdict on each of the `commands`. tool: the sanitizer's path; missing: why a backend (`esat_kernels.backends`) is not there."""
    missing = {backend: missing[_NEEDS.get(backend, backend)] for backend in BACKENDS}
    planned = commands(tool or "compute-sanitizer", name)
    reasons = {name: missing[name.split()[0]] or (None if tool else "compute-sanitizer is not installed") for name in planned}
    found: dict[str, dict[str, object]] = {name: {"verdict": "not run", "why": why} for name, why in reasons.items() if why is not None}
    # Caching off, so that every tensor has bounds of its own.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "OMP_NUM_THREADS": "2"}
    for name, ended in run_together({name: planned[name] for name in planned if name not in found}, seconds, environment).items():
        said = f"not finished in {ended.seconds:.0f} s" if ended.code is None else verdict(ended.code, ended.output)
        found[name] = {"verdict": said, "seconds": round(ended.seconds, 1), "output_end": ended.output[-1500:]}
        if said == "errors":  # the part's log: the first of them say most, and whether it is a kernel of ours
            print(f"{name}:\n{ended.output[:20000]}")
    return {name: found[name] for name in planned}


def good(found: dict[str, dict[str, object]]) -> bool:
    """Whether what decides has been looked at, where that is possible, and nothing was found."""
    fine = ("clean", "refused by this machine", "not run")
    return all(entry["verdict"] in fine for name, entry in found.items() if name.startswith("cuda") or not name.endswith("racecheck"))


def main(name: str, output: Path) -> int:
    from esat_kernels import backends

    tool = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    found = run(tool, name, backends(), seconds_left(600) - 5)
    for what, entry in found.items():
        print(what, entry["verdict"], entry.get("why", ""))
    write(output, {"ok": good(found), "tools": found})
    return 0 if good(found) else 1


if __name__ == "__main__":
    if sys.argv[1] == "--calls":
        calls(sys.argv[2])
    else:
        sys.exit(main(sys.argv[2], Path(sys.argv[3])))
