"""The attention kernel that only Hopper runs (sm_90a): checked at the sizes of the models, then timed beside the sm_80 kernel and Triton.

A part of its own: nothing else calls this kernel yet, and an error that takes the device's context with it takes no other part's. On another
device it says so, which is no failure.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import attention
from benchmarks.gpu.parts import write
from esat_kernels import testing
from esat_kernels.attention import cuda, triton
from esat_kernels.attention.common import Forces, Scores

Forward = Callable[[Tensor, Tensor, Tensor, Forces, Scores], tuple[Tensor, Tensor]]
CHECKED = (720, 548, 427, 343, 320, 199, 129, 65, 64, 1)  # tokens
REPETITIONS = 200
SCORES = 1.2e-3  # relative error of the elimination's scores


def other_device() -> str | None:
    """None if the kernel can run here, else why not."""
    reason = cuda.unavailable()
    if reason is not None:
        return reason
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return None if properties.major == 9 else f"it runs on compute capability 9.0, got {properties.major}.{properties.minor}"


def check(forward: Forward, kind: str, tokens: int, batch: int, device: str) -> dict[str, Any]:
    """One case of `testing` as slices of one [B, N, 3, H, D]: budget and scores against the oracles, and the same bits every time."""
    case = testing.make_case(kind, batch=batch, heads=2, tokens=tokens, dtype=torch.bfloat16, seed=tokens)
    packed = torch.stack([t.transpose(1, 2) for t in (case.q, case.k, case.v)], dim=2).to(device)
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    wanted = Scores(max(1, tokens // 5), max(1, tokens // 5) // 2)
    out, scores = forward(q, k, v, case.forces, wanted)
    again = [forward(q, k, v, case.forces, wanted) for _ in range(REPETITIONS if device != "cpu" else 1)]
    budget = testing.check(case, out.cpu())
    exact = testing.oracle_scores(case, *wanted)
    error = float(((scores.cpu().double() - exact).abs() / (exact + 1e-4)).max()) if exact.numel() else 0.0
    same = all(torch.equal(out, other) and torch.equal(scores, others) for other, others in again)
    good = budget.ok and error <= SCORES and same
    return {"kind": kind, "tokens": tokens, "batch": batch, "ok": good, "excess": budget.excess, "scores_error": error, "same_bits": same}


def cases() -> list[tuple[str, int, int]]:
    """(kind, tokens, batch)"""
    return [*(("near", tokens, 1) for tokens in CHECKED), *((kind, 97, 3) for kind in ("normal", "large", "plain"))]


def main(output: Path) -> int:
    reason = other_device()
    if reason is not None:
        print(reason)
        write(output, {"ok": True, "why": reason, "checks": [], "rows": []})
        return 0
    checks: list[dict[str, Any]] = []
    for rows in cuda.HOPPER_HEIGHTS:
        forward = functools.partial(cuda.forward, rows=rows, kernel="sm_90a")
        for case in cases():
            checks.append({"rows": rows, **check(forward, *case, "cuda")})
            write(output, {"ok": False, "checks": checks, "rows": []})  # an error further on leaves what was right
    wrong = [found for found in checks if not found["ok"]]
    print(f"{len(checks) - len(wrong)} of {len(checks)} checks are right")
    for found in wrong:
        print(found)

    def named(**options: Any) -> attention.Attention:
        return lambda q, k, v: cuda.forward(q, k, v, attention.FORCES, Scores(), **options)[0]

    candidates = {"ours:cuda": named(), "ours:cuda:sm_90a": named(kernel="sm_90a")}
    candidates |= {f"ours:cuda:sm_90a:rows={rows}": named(kernel="sm_90a", rows=rows) for rows in cuda.HOPPER_HEIGHTS}
    if triton.unavailable() is None:
        candidates["ours:triton"] = attention.ours_triton
    timed: list[dict[str, Any]] = []
    for tokens in attention.TOKENS:
        found = attention.measure(tokens, 1, candidates)
        timed += found
        for row in found:
            attention.say(row)
        good = not wrong and all(row["ok"] for row in timed)
        write(output, {"ok": good and tokens == attention.TOKENS[-1], "checks": checks, "rows": timed})
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
