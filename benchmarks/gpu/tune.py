"""Times the tiles that the Triton attention and products may take, and keeps the fastest for this device in esat_kernels/tuned/<device>.json.

Candidates of one problem are replayed as CUDA graphs in turn. One that gives a wrong result has no time. Nothing is tuned while tracking: the
kernels read the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.parts import seconds_left, write
from benchmarks.gpu.timing import Graph, copies, interleaved, summary
from esat_kernels import _triton, _tuned, testing
from esat_kernels.attention import triton as attention
from esat_kernels.attention import triton_tiles as attention_tiles
from esat_kernels.attention.common import Forces, Scores
from esat_kernels.linear import reference
from esat_kernels.linear import triton as linear
from esat_kernels.linear import triton_tiles as linear_tiles

BFLOAT16 = torch.bfloat16
MODELS = {"esat-384": (768, 12, (720, 548, 427, 343)), "esat-s-256": (384, 6, (320, 244, 190, 153))}  # width, heads, tokens of the stages
HEAD_DIM, SETS, ROUNDS = 64, 8, 20
FORCES = Forces.of(HEAD_DIM, 0.1, 0.1)
LAST_S = 45  # one problem may take so long: all its tiles are compiled


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is timed: the table's name for it, and for each of its tiles whether the result is right and several calls on their own data."""

    operation: str
    key: str
    candidates: dict[tuple[int, ...], tuple[Callable[[], bool], list[Callable[[], object]]]]


def _attention(tokens: int, heads: int) -> Problem:
    inputs = [torch.randn(1, tokens, 3, heads, HEAD_DIM, device="cuda", dtype=BFLOAT16).permute(2, 0, 3, 1, 4) for _ in range(SETS)]
    case = testing.make_case("near", heads=2, tokens=tokens, dtype=BFLOAT16)

    def call(q: Tensor, k: Tensor, v: Tensor, tiles: attention_tiles.Tiles, forces: Forces = FORCES) -> Tensor:
        return attention.forward(q, k, v, forces, Scores(), tiles)[0]

    candidates = {}
    for tiles in attention_tiles.forward_candidates(HEAD_DIM, BFLOAT16):
        right = lambda t=tiles: testing.check(case, call(*(x.cuda() for x in (case.q, case.k, case.v)), t, case.forces).cpu()).ok  # noqa: E731
        candidates[dataclasses.astuple(tiles)] = (right, [lambda t=tiles, qkv=qkv: call(*qkv, t) for qkv in inputs])
    return Problem("attention", attention_tiles.forward_key(tokens, heads, HEAD_DIM, BFLOAT16), candidates)


def _product(rows: int, inner: int, columns: int, activation: str | None) -> Problem:
    """A product of 16-bit rows, as the layers have them behind the normalisation."""
    x = torch.randn(rows, inner, device="cuda", dtype=BFLOAT16)
    weights = [torch.randn(columns, inner, device="cuda", dtype=BFLOAT16) * inner**-0.5 for _ in range(copies(2 * columns * inner))]
    bias = torch.randn(columns, device="cuda")
    expected = reference.linear(x, weights[0], bias, None, activation, None, torch.float32)

    def call(weight: Tensor, tiles: linear_tiles.Tiles, dtype: torch.dtype = BFLOAT16) -> Tensor:
        return linear.run(x, weight, bias, None, activation, None, dtype, tiles)

    candidates = {}
    for tiles in linear_tiles.candidates(inner, BFLOAT16, BFLOAT16):
        right = lambda t=tiles: bool((call(weights[0], t, torch.float32) - expected).abs().max() < 1e-3)  # noqa: E731
        candidates[dataclasses.astuple(tiles)] = (right, [lambda t=tiles, w=w: call(w, t) for w in weights])
    return Problem("linear", linear_tiles.shape_key(rows, inner, columns, BFLOAT16, BFLOAT16), candidates)


def problems() -> Iterator[Problem]:
    for width, heads, stages in MODELS.values():
        for tokens in stages:
            yield _attention(tokens, heads)
            for inner, columns, activation in (
                (width, 3 * width, None),
                (width, width, None),
                (width, 4 * width, "gelu"),
                (4 * width, width, None),
            ):
                yield _product(tokens, inner, columns, activation)


def measure(problem: Problem) -> list[dict[str, Any]]:
    """One row for each candidate: its median, or why it has none."""
    rows = {tiles: {"operation": problem.operation, "key": problem.key, "tiles": list(tiles), "ok": False} for tiles in problem.candidates}
    graphs = {}
    for tiles, (right, calls) in problem.candidates.items():
        try:
            rows[tiles]["ok"] = right()
            if rows[tiles]["ok"]:
                graphs[str(tiles)] = Graph(calls)
        except Exception as error:  # noqa: BLE001  tiles that this device cannot hold are a result, not a failure
            rows[tiles]["why"] = f"{type(error).__name__}: {str(error)[:300]}"
    times = interleaved(graphs, ROUNDS)
    for tiles, row in rows.items():
        if str(tiles) in times:
            row["median_us"] = summary(times[str(tiles)])["median"]
    return list(rows.values())


def fastest(rows: list[dict[str, Any]]) -> dict[str, dict[str, list[int]]]:
    """The table: operation -> problem -> the tiles of the smallest median among the right ones."""
    table: dict[str, dict[str, list[int]]] = {}
    best: dict[tuple[str, str], float] = {}
    for row in rows:
        name = (row["operation"], row["key"])
        if row["ok"] and "median_us" in row and row["median_us"] < best.get(name, float("inf")):
            best[name] = row["median_us"]
            table.setdefault(row["operation"], {})[row["key"]] = row["tiles"]
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description="Tune the Triton kernels' tiles for this device.")
    parser.add_argument("output", type=Path, help="JSON file for every candidate's time")
    options = parser.parse_args()
    reason = _triton.available()
    if reason is not None or not torch.cuda.is_available():
        print(f"{reason or 'no CUDA device'}: nothing is tuned")
        return 2
    torch.manual_seed(0)
    path = _tuned.file(torch.cuda.get_device_name())
    path.parent.mkdir(exist_ok=True)
    kept = json.loads(path.read_text()) if path.is_file() else {}
    rows: list[dict[str, Any]] = []
    left = []
    for problem in problems():
        if seconds_left(3600) < LAST_S:
            left.append(f"{problem.operation} {problem.key}")
            continue
        found = measure(problem)
        rows += found
        timed = [row for row in found if "median_us" in row]
        if timed:
            row = min(timed, key=lambda row: row["median_us"])
            print(
                f"{problem.operation} {problem.key}: {row['tiles']} {row['median_us']:.2f} us, {len(timed)} of {len(found)} timed",
                flush=True,
            )
        path.write_text(json.dumps({**kept, **fastest(rows)}, indent=1) + "\n")
        write(options.output, {"ok": False, "rows": rows, "table": str(path)})
    good = not left and all(row["ok"] or "why" in row for row in rows)
    write(options.output, {"ok": good, "rows": rows, "table": str(path), "no_time_for": left})
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
