"""The attention kernel that only Hopper runs (sm_90a): probed, checked at the sizes of the models, then timed beside the sm_80 kernel and Triton.

Probes come first: each makes the result show one thing alone, so that a wrong one says what was read wrongly, where a wrong error budget says
nothing. Small sizes come before large ones and each is named before it runs: where the kernel hangs, the log's last line says what at.

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
CHECKED = (1, 64, 65, 129, 199, 320, 343, 427, 548, 720)  # tokens
PROBED = 200  # tokens: two tiles for each block, the last one cut off; key numbers are exact in bf16
REPETITIONS = 200
SCORES = 1.2e-3  # relative error of the elimination's scores


def other_device() -> str | None:
    """None if the kernel can run here, else why not."""
    reason = cuda.unavailable()
    if reason is not None:
        return reason
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return None if properties.major == 9 else f"it runs on compute capability 9.0, got {properties.major}.{properties.minor}"


def _packed(tensors: tuple[Tensor, ...], device: str) -> tuple[Tensor, ...]:
    """q, k, v [B, H, N, D] as slices of one [B, N, 3, H, D] on the device."""
    return torch.stack([t.transpose(1, 2) for t in tensors], dim=2).to(device).permute(2, 0, 3, 1, 4).unbind()


def probe(forward: Forward, device: str) -> list[dict[str, Any]]:
    """What each probe should give and what it gave where that is wrong: of the first head, by query or by column.

    columns: every row of v is its columns' numbers, so whatever the weights, so is every row of the result (v's descriptor, the sums' registers,
    the exchange between the blocks). keys: equal weights, v says in its columns which four keys these are, so each counts them (every key once,
    none behind the last). queries: each query has one key, whose number v holds (k's descriptor, q's registers); far apart, by tiles that are
    done exactly, so by mma.sync.
    """
    generator = torch.Generator().manual_seed(1)
    tokens, heads, width = PROBED, 2, attention.HEAD_DIM
    shape = (1, heads, tokens, width)
    code = torch.randint(0, 2, shape, generator=generator) * 2.0 - 1.0
    order = torch.randperm(tokens, generator=generator)
    numbers = torch.arange(1.0, tokens + 1)
    columns = torch.arange(1.0, width + 1).expand(shape)
    fours = (torch.arange(tokens)[:, None] // 4 == torch.arange(width)).float().expand(shape)
    of_key = numbers[:, None].expand(shape)
    inputs = {  # q, k, v; what the result is when multiplied by `times`
        "columns": (code, code.roll(1, 2), columns, columns, 1),
        "keys": (code, torch.zeros(shape), fours, fours.sum(2, keepdim=True).expand(shape), tokens),
        "queries": (2 * code[:, :, order], 2 * code, of_key, of_key[:, :, order], 1),
        "queries, exactly": (3 * code[:, :, order], 3 * code, of_key, of_key[:, :, order], 1),
    }
    found = []
    for name, (q, k, v, wanted, times) in inputs.items():
        print(f"probe {name}", flush=True)
        out, _ = forward(*_packed(tuple(t.bfloat16() for t in (q, k, v)), device), attention.FORCES, Scores())
        given = (out.cpu().float() * times).round()
        wrong = given != wanted
        row: dict[str, Any] = {"probe": name, "ok": not bool(wrong.any()), "wrong": int(wrong.sum()), "of": wrong.numel()}
        if not row["ok"]:
            row["first_wrong"] = wrong.nonzero()[0].tolist()  # batch, head, query, column
            row |= {"by_query": given[0, 0, :, 0].tolist(), "by_column": given[0, 0, 0].tolist()}
        found.append(row)
    return found


@functools.cache
def _case(kind: str, tokens: int, batch: int) -> tuple[testing.Case, Tensor, Tensor, Scores, Tensor]:
    """Inputs, what the ideal kernel gives, the float64 oracle, the wanted scores and their oracle: the same for every height."""
    case = testing.make_case(kind, batch=batch, heads=2, tokens=tokens, dtype=torch.bfloat16, seed=tokens)
    wanted = Scores(max(1, tokens // 5), max(1, tokens // 5) // 2)
    return case, testing.yardstick(case), testing.oracle(case)[0], wanted, testing.oracle_scores(case, *wanted)


def check(forward: Forward, kind: str, tokens: int, batch: int, device: str) -> dict[str, Any]:
    """One case of `testing` as slices of one [B, N, 3, H, D]: budget and scores against the oracles, and the same bits every time."""
    case, ideal, oracle, wanted, exact = _case(kind, tokens, batch)
    q, k, v = _packed((case.q, case.k, case.v), device)
    out, scores = forward(q, k, v, case.forces, wanted)
    again = [forward(q, k, v, case.forces, wanted) for _ in range(REPETITIONS if device != "cpu" else 1)]
    budget = testing.compare(out.cpu(), ideal, oracle)
    error = float(((scores.cpu().double() - exact).abs() / (exact + 1e-4)).max()) if exact.numel() else 0.0
    same = all(torch.equal(out, other) and torch.equal(scores, others) for other, others in again)
    good = budget.ok and error <= SCORES and same
    return {"kind": kind, "tokens": tokens, "batch": batch, "ok": good, "excess": budget.excess, "scores_error": error, "same_bits": same}


def cases() -> list[tuple[str, int, int]]:
    """(kind, tokens, batch), those with the fewest waits first."""
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
        print(f"{rows} rows", flush=True)
        checks += [{"rows": rows, **found} for found in probe(forward, "cuda")]
        for case in cases():
            print("case", *case, flush=True)
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
