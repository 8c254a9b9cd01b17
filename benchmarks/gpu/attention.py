"""One attention call at the four ViT-B sizes: ours against plain SDPA by each of PyTorch's backends and eager FDA; with --compiled, compiled peers
too; with --training, forward and backward instead.

Times are of graph replays over several input sets, implementations in turn. No speed is reported for one that fails its accuracy check.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import esat_kernels
from benchmarks.gpu.parts import write
from benchmarks.gpu.timing import Graph, cold_us, interleaved, summary
from esat_kernels import testing
from esat_kernels.attention import cuda, reference, triton
from esat_kernels.attention.common import Forces, Scores

TOKENS = (720, 548, 427, 343)
TRAINING = (720, 320)  # tokens of forward and backward together
HEADS, HEAD_DIM, SETS, ROUNDS = 12, 64, 8, 200
FORCES = Forces.of(HEAD_DIM, 0.1, 0.1)  # those of the paper's model
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def _sdpa(backend: SDPBackend) -> Attention:
    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    return call


def ours_triton(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return triton.forward(q, k, v, FORCES, Scores())[0]


def _ours() -> dict[str, Attention]:
    found: dict[str, Attention] = {}
    if triton.unavailable() is None:
        found["ours:triton"] = ours_triton
    if cuda.unavailable() is None:
        found["ours:cuda"] = lambda q, k, v: cuda.forward(q, k, v, FORCES, Scores())[0]
        for rows in cuda.HEIGHTS:
            found[f"ours:cuda:rows={rows}"] = lambda q, k, v, rows=rows: cuda.forward(q, k, v, FORCES, Scores(), rows=rows)[0]  # type: ignore[misc]
        found["ours:cuda:plain"] = lambda q, k, v: cuda.forward(q, k, v, FORCES._replace(alpha=0.0, beta=0.0), Scores())[0]
    return found


def eager(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return reference.attention(q, k, v, FORCES)[0]


def _peers() -> dict[str, Attention]:
    names = ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH")
    plain = {f"sdpa:{name.split('_')[0].lower()}": _sdpa(getattr(SDPBackend, name)) for name in names if hasattr(SDPBackend, name)}
    return {**plain, "eager": eager}


def _compiled() -> dict[str, Attention]:
    """torch.compile of the eager formula, and FlexAttention with the forces as its score_mod, each in two modes."""
    from torch.nn.attention.flex_attention import flex_attention

    alpha, beta, delta, scale = FORCES

    def flex(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q_norm, k_norm = q.float().square().sum(-1), k.float().square().sum(-1)

        def score_mod(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            r = delta * (q_norm[b, h, i] + k_norm[b, h, j] - 2.0 * score / scale)
            return score + alpha * torch.exp(-r) - beta * r

        return flex_attention(q, k, v, score_mod=score_mod, scale=scale)

    autotune = "max-autotune-no-cudagraphs"
    return {
        "compiled": torch.compile(eager, dynamic=False),
        "compiled:max-autotune": torch.compile(eager, dynamic=False, mode=autotune),
        "flex": torch.compile(flex, dynamic=False),
        "flex:max-autotune": torch.compile(flex, dynamic=False, mode=autotune),
    }


def _inputs(tokens: int, batch: int) -> list[list[Tensor]]:
    """Fresh random q, k, v as slices of one QKV tensor, several times. Drawn on the CPU: a peer's capture that failed may spoil CUDA's generator."""
    packed = (torch.randn(batch, tokens, 3, HEADS, HEAD_DIM).to("cuda", torch.bfloat16) for _ in range(SETS))
    return [list(qkv.permute(2, 0, 3, 1, 4)) for qkv in packed]


@functools.cache
def _case(kind: str, tokens: int) -> tuple[testing.Case, Tensor, Tensor]:
    """Inputs of the measured shape, what the ideal kernel gives, and the float64 oracle."""
    case = testing.make_case(kind, heads=HEADS, tokens=tokens, dtype=torch.bfloat16)
    return case, testing.yardstick(case), testing.oracle(case)[0]


def accuracy(name: str, attention: Attention, tokens: int, device: str = "cuda") -> testing.Budget:
    """Against the float64 oracle; a plain implementation is held to plain attention. Shape and strides are those of the measured inputs."""
    plain = name.startswith("sdpa") or name.endswith(":plain")
    case, ideal, exact = _case("plain" if plain else "normal", tokens)
    packed = torch.stack([t.transpose(1, 2) for t in (case.q, case.k, case.v)], dim=2).to(device)
    return testing.compare(attention(*packed.permute(2, 0, 3, 1, 4)).cpu(), ideal, exact)


def measure(tokens: int, batch: int, candidates: dict[str, Attention]) -> list[dict[str, Any]]:
    """The rows of one size; what cannot run says why, what is wrong has no time."""
    sets = _inputs(tokens, batch)
    graphs: dict[str, Graph] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name, attention in candidates.items():
        impl, _, backend = name.partition(":")
        row: dict[str, Any] = {"impl": impl, "backend": backend or None, "tokens": tokens, "batch": batch, "dtype": "bf16", "ok": False}
        rows[name] = row
        try:
            with torch.no_grad():
                budget = accuracy(name, attention, tokens)
                row |= {"max_error": budget.max_error, "max_allowed": budget.max_allowed}
                # Peers round more often than the budget allows; they are held to ten times it, so that a wrong formula still shows.
                row["ok"] = budget.ok if impl == "ours" else budget.max_error <= 10 * budget.max_allowed
                if row["ok"]:
                    graphs[name] = Graph([lambda s=s, f=attention: f(*s) for s in sets])  # type: ignore[misc]
                    if "rows=" not in name:
                        row["cold_us"] = cold_us(lambda f=attention: f(*sets[0]))  # type: ignore[misc]
        except Exception as error:  # noqa: BLE001  a peer that cannot run here is a result, not a failure
            row["why"] = f"{type(error).__name__}: {str(error)[:300]}"
    for name, times in interleaved(graphs, ROUNDS).items():
        found = summary(times)
        rows[name] |= {"median_us": found["median"], "p01_us": found["p01"], "p99_us": found["p99"]}
    plain = [row["median_us"] for name, row in rows.items() if name.startswith("sdpa") and "median_us" in row]
    for row in rows.values():
        if plain and "median_us" in row:
            row["ratio_to_sdpa"] = row["median_us"] / min(plain)
    return list(rows.values())


def _backward(tokens: int) -> list[dict[str, Any]]:
    """Forward and backward together, ours (Triton) and plain SDPA, by events around eager calls."""
    q, k, v = (t.detach().requires_grad_() for t in _inputs(tokens, 1)[0])
    dout = torch.randn(1, HEADS, tokens, HEAD_DIM).to("cuda", torch.bfloat16)
    works = {
        "ours": lambda: esat_kernels.fda_attention(q, k, v, backend="triton"),
        "sdpa": lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v),
    }
    rows = []
    for impl, work in works.items():
        times = []
        for _ in range(30):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            torch.autograd.grad(work(), (q, k, v), dout)
            end.record()
            end.synchronize()
            times.append(1e3 * start.elapsed_time(end))
        rows.append({"impl": impl, "scope": "forward and backward", "tokens": tokens, "median_us": summary(times[5:])["median"]})
    return rows


def say(row: dict[str, Any]) -> None:
    took = row.get("why", "wrong")
    if "median_us" in row:
        took = f"{row['median_us']:8.2f} us, {row.get('ratio_to_sdpa', float('nan')):5.2f} of SDPA"
    print(f"N = {row['tokens']} {row['impl']}:{row['backend'] or ''} {took}", flush=True)


def best(tokens: int, rows: list[dict[str, Any]]) -> str:
    """Ours and the fastest plain one at this size, in one line."""
    times = {f"{row['impl']}:{row['backend']}": row.get("median_us", math.inf) for row in rows if row["tokens"] == tokens}
    plain = min(((us, name) for name, us in times.items() if name.startswith("sdpa")), default=(math.inf, "none"))
    ours = ", ".join(f"{name.removeprefix('ours:')} {times.get(name, math.inf):.2f}" for name in ("ours:cuda", "ours:triton"))
    return f"N = {tokens}: {ours}, best plain {plain[1]} {plain[0]:.2f} us"


def main() -> int:
    parser = argparse.ArgumentParser(description="Attention against its peers on a GPU.")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--compiled", action="store_true", help="with compiled peers, which take minutes")
    group.add_argument("--training", action="store_true", help="forward and backward together, ours by Triton")
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.training:
        reason = triton.unavailable()
        rows = [] if reason else [row for tokens in TRAINING for row in _backward(tokens)]
        write(options.output, {"ok": bool(rows), "why": reason, "rows": rows})
        return 0 if rows else 1
    ours = _ours()
    rows = []
    good = False
    for tokens in TOKENS:
        torch.compiler.reset()  # one function may be compiled for a few shapes only: beyond them PyTorch would run it uncompiled
        found = measure(tokens, 1, {**ours, **(_compiled() if options.compiled else {}), **_peers()})
        rows += found
        for row in found:
            say(row)
        good = {"ours:triton", "ours:cuda"} <= set(ours) and all(row["ok"] for row in rows if row["impl"] == "ours")
        write(options.output, {"ok": good and tokens == TOKENS[-1], "rows": rows})
    for tokens in TOKENS:
        print(best(tokens, rows))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
