"""Nsight Compute's full set of counters for one attention and three products of an esat-384 frame at 720 tokens.

The clocks are left as they are. Where the tool is missing or may not read the counters, that is recorded and is no failure.

    python -m benchmarks.gpu.counters OUTPUT     # starts ncu; the report lies beside OUTPUT, for its window, and as text
    python -m benchmarks.gpu.counters --calls    # makes the calls
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from benchmarks.gpu.children import run_together
from benchmarks.gpu.parts import seconds_left, write

TOKENS, DIM, HEADS = 720, 768, 12
PRODUCTS = ((DIM, 3 * DIM, None), (DIM, 4 * DIM, "gelu"), (4 * DIM, DIM, None))  # inner, columns, activation: q k v and both of the MLP
REFUSALS = ("ERR_NVGPUCTRPERM", "LibraryNotLoaded", "not supported", "Failed to initialize the profiler")
KERNELS = "regex:fda_forward|forward_kernel|product_kernel"


def find_ncu() -> str | None:
    candidates = ["ncu", "/usr/local/cuda/bin/ncu", *sorted(map(str, Path("/opt/nvidia/nsight-compute").glob("*/ncu")), reverse=True)]
    return next(filter(None, map(shutil.which, candidates)), None)


def command(ncu: str, report: Path) -> list[str]:
    options = ["--set", "full", "--clock-control", "none", "--profile-from-start", "off", "--target-processes", "all"]
    program = [sys.executable, "-m", "benchmarks.gpu.counters", "--calls"]
    return [ncu, *options, "--kernel-name", KERNELS, "--force-overwrite", "--export", str(report), *program]


def calls() -> None:
    """Once to compile and load, then once while the profiler looks."""
    import torch

    from esat_kernels import _triton, _tuned
    from esat_kernels.attention import cuda, triton
    from esat_kernels.attention.common import Forces, Scores
    from esat_kernels.linear import triton as linear
    from esat_kernels.linear import triton_tiles

    bfloat16 = torch.bfloat16
    qkv = torch.randn(1, TOKENS, 3, HEADS, DIM // HEADS, device="cuda", dtype=bfloat16).permute(2, 0, 3, 1, 4)
    forces = Forces.of(DIM // HEADS, 0.1, 0.1)
    attention = cuda if cuda.unavailable() is None else triton
    operands = []
    for inner, columns, activation in PRODUCTS:
        x = torch.randn(TOKENS, inner, device="cuda", dtype=bfloat16)
        weight = torch.randn(columns, inner, device="cuda", dtype=bfloat16) * inner**-0.5
        limits = _triton.multiprocessors(x.device), _tuned.device_name(x.device), _triton.shared_memory(x.device)
        tiles = triton_tiles.product_tiles(TOKENS, inner, columns, bfloat16, bfloat16, *limits)
        operands.append((x, weight, weight[:, 0].contiguous(), activation, None, bfloat16, tiles))
    for counted in (False, True):
        torch.cuda.synchronize()
        if counted:
            torch.cuda.profiler.start()
        attention.forward(*qkv, forces, Scores())
        for given in operands:
            linear.run(*given)
        torch.cuda.synchronize()
    torch.cuda.profiler.stop()


def verdict(code: int | None, text: str, reported: bool) -> str:
    if code is None:
        return "stopped"
    if code == 0 and reported:
        return "counted"
    return "refused by this machine" if any(refusal in text for refusal in REFUSALS) else "failed"


def main(output: Path) -> int:
    ncu = find_ncu()
    if ncu is None:
        print("ncu is not installed")
        write(output, {"ok": True, "verdict": "ncu is not installed"})
        return 0
    report, text = output.with_suffix(".ncu-rep"), output.with_suffix(".txt")
    ended = run_together({"ncu": command(ncu, report)}, seconds_left(120) - 6, dict(os.environ))["ncu"]
    print(ended.output[-4000:])
    if report.is_file():
        shown = run_together({"text": [ncu, "--import", str(report), "--page", "details"]}, max(3.0, seconds_left(120) - 2))["text"]
        text.write_text(shown.output)
        print(shown.output[:6000])
    said = verdict(ended.code, ended.output, report.is_file())
    good = said in ("counted", "refused by this machine")
    write(output, {"ok": good, "verdict": said, "seconds": round(ended.seconds, 1), "output_end": ended.output[-1500:]})
    return 0 if good else 1


if __name__ == "__main__":
    if sys.argv[1] == "--calls":
        calls()
    else:
        sys.exit(main(Path(sys.argv[1])))
