"""The tiles that the Triton products and attention may take, at the shapes of a frame: each one checked against float32 and timed, the fastest kept
for this device; then each product by that kernel against PyTorch's calls around cuBLASLt, and likewise the head's convolutions.

Candidates of one problem are replayed as CUDA graphs in turn. One that gives a wrong result has no time. The kernels and the engine read the table,
`esat_kernels/tuned/<device>.json`: nothing is tuned while tracking.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import esat_kernels
from benchmarks.gpu import tables
from benchmarks.gpu.implementations import measure_head, measure_product
from benchmarks.gpu.inputs import full_float32
from benchmarks.gpu.parts import earlier, seconds_left, write
from benchmarks.gpu.timing import Graph, Work, copies, interleaved, summary
from engine.config import ModelConfig, preset
from esat_kernels import _triton, testing
from esat_kernels.attention import triton as attention
from esat_kernels.attention import triton_tiles as attention_tiles
from esat_kernels.attention.common import Forces, Scores
from esat_kernels.linear import reference
from esat_kernels.linear import triton as linear
from esat_kernels.linear import triton_tiles as linear_tiles

MODELS = ("esat-384", "esat-s-256")
DEVICE, DTYPE = torch.device("cuda"), torch.bfloat16
SETS, QUICK, ROUNDS, FINALISTS = 8, 3, 15, 4
TRIED, NEAR = 3, 1.2  # tiles of a problem that a frame is tried with, and how many times the fastest one's time they may take alone
LAST_S = 8  # one problem may take so long
Key = tuple[str, str]  # operation and problem, as in a device's table


@functools.cache
def _counters() -> Tensor:
    return esat_kernels.meeting_counters(DEVICE)


def shapes(config: ModelConfig, batch: int) -> dict[str, set[int]]:
    """The row counts at which each product of a frame runs, by its name."""
    first, hidden = config.num_template, config.search_tokens_per_layer()
    before = [config.num_search, *hidden[:-1]]
    layers = {batch * (first + count) for count in hidden[:-1]}
    return {
        "patch": {batch * config.num_search},
        "qkv": {batch * config.num_search, *(batch * (first + count) for count in before[1:])},
        "projection": {*layers, batch * hidden[-1]},
        "mlp_in": {*layers, batch * hidden[-1]},
        "mlp_out": {*layers, batch * hidden[-1]},
    }


def dimensions(config: ModelConfig) -> dict[str, tuple[int, int, bool, bool, bool]]:
    """Outputs, inputs, LayerNorm, GELU, residual of each product."""
    dim, hidden = config.dim, int(config.dim * config.mlp_ratio)
    return {
        "patch": (dim, 768, False, False, True),
        "qkv": (3 * dim, dim, True, False, False),
        "projection": (dim, dim, False, False, True),
        "mlp_in": (hidden, dim, True, True, False),
        "mlp_out": (dim, hidden, False, False, True),
    }


@dataclasses.dataclass(frozen=True)
class Shape:
    """A product as a frame has it, behind the normalisation: x [rows, inner] in 16 bits, the result with a residual in float32."""

    rows: int
    inner: int
    columns: int
    activation: str | None
    residual: bool

    @property
    def key(self) -> str:
        return linear_tiles.shape_key(self.rows, self.inner, self.columns, DTYPE, DTYPE)

    def operands(self, device: torch.device | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """x, weight, bias, residual: fresh random values."""
        device = device or DEVICE
        x = torch.randn(self.rows, self.inner, device=device, dtype=DTYPE)
        weight = torch.randn(self.columns, self.inner, device=device, dtype=DTYPE) * self.inner**-0.5
        bias = torch.randn(self.columns, device=device, dtype=DTYPE)
        return x, weight, bias, torch.randn(self.rows, self.columns, device=device) if self.residual else None

    def candidates(self) -> list[linear_tiles.Tiles]:
        return linear_tiles.candidates(self.inner, DTYPE, DTYPE, _triton.shared_memory(DEVICE))

    def run(self, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, tiles: linear_tiles.Tiles) -> Tensor:
        return linear.run(x, weight, bias, self.activation, residual, torch.float32 if self.residual else DTYPE, tiles, _counters())

    def right(self, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None) -> bool:
        """Against the product in float32: the result's rounding, and sums in another order by units that cut off what they add."""
        exact = reference.linear(x.float(), weight.float(), bias, None, self.activation, residual, torch.float32)
        allowed = 5e-4 + (0.0 if self.residual else 2.0**-8) * exact.abs()
        return bool(((out.float() - exact).abs() <= allowed).all())  # False for NaN


def frame_shapes(model: str) -> list[Shape]:
    """All products of one frame at batch 1."""
    config = preset(model)
    found = set()
    for name, counts in shapes(config, 1).items():
        outputs, inputs, _, gelu, residual = dimensions(config)[name]
        found |= {Shape(rows, inputs, outputs, "gelu" if gelu else None, residual) for rows in counts}
    return sorted(found, key=lambda shape: dataclasses.astuple(shape)[:3])


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is timed: the table's name for it, and for each of its tiles whether the result is right and several calls on their own data."""

    operation: str
    key: str
    candidates: dict[tuple[int, ...], tuple[Callable[[], bool], list[Work]]]


def product_problem(shape: Shape) -> Problem:
    x, weight, bias, residual = shape.operands()
    weights = [weight, *(torch.randn_like(weight) for _ in range(min(16, copies(2 * weight.numel())) - 1))]
    candidates: dict[tuple[int, ...], tuple[Callable[[], bool], list[Work]]] = {}
    for tiles in shape.candidates():
        right = lambda t=tiles: shape.right(shape.run(x, weight, bias, residual, t), x, weight, bias, residual)  # noqa: E731
        candidates[dataclasses.astuple(tiles)] = (right, [lambda t=tiles, w=w: shape.run(x, w, bias, residual, t) for w in weights])  # type: ignore[misc]
    return Problem("linear", shape.key, candidates)


def attention_problem(tokens: int, heads: int, head_dim: int) -> Problem:
    forces = Forces.of(head_dim, 0.1, 0.1)
    inputs = [torch.randn(1, tokens, 3, heads, head_dim, device=DEVICE, dtype=DTYPE).permute(2, 0, 3, 1, 4) for _ in range(SETS)]
    case = testing.make_case("near", heads=2, tokens=tokens, head_dim=head_dim, dtype=DTYPE)
    moved = [tensor.to(DEVICE) for tensor in (case.q, case.k, case.v)]
    candidates: dict[tuple[int, ...], tuple[Callable[[], bool], list[Work]]] = {}
    for tiles in attention_tiles.forward_candidates(head_dim, DTYPE, _triton.shared_memory(DEVICE)):
        right = lambda t=tiles: testing.check(case, attention.forward(*moved, case.forces, Scores(), t)[0].cpu()).ok  # noqa: E731
        calls = [lambda t=tiles, qkv=qkv: attention.forward(*qkv, forces, Scores(), t) for qkv in inputs]  # type: ignore[misc]
        candidates[dataclasses.astuple(tiles)] = (right, calls)
    return Problem("attention", attention_tiles.forward_key(tokens, heads, head_dim, DTYPE), candidates)


def problems() -> Iterator[Callable[[], Problem]]:
    """Of the larger model first, and there the products, which are most of a frame."""
    for model in MODELS:
        config = preset(model)
        for shape in frame_shapes(model):
            yield lambda shape=shape: product_problem(shape)  # type: ignore[misc]
        counts = sorted({config.num_template + count for count in (config.num_search, *config.search_tokens_per_layer()[:-1])})
        for tokens in counts:
            yield lambda tokens=tokens, config=config: attention_problem(tokens, config.heads, config.head_dim)  # type: ignore[misc]


@torch.no_grad()
def compile_all() -> None:
    """Every candidate once."""
    for make in problems():
        for _, calls in make().candidates.values():
            calls[0]()


@torch.no_grad()
def measure(problem: Problem) -> list[dict[str, Any]]:
    """One row for each candidate: its median, of few replays if it is not among the fastest, or why it has none."""
    rows = {tiles: {"operation": problem.operation, "key": problem.key, "tiles": list(tiles), "ok": False} for tiles in problem.candidates}
    graphs = {}
    for tiles, (right, calls) in problem.candidates.items():
        try:
            rows[tiles]["ok"] = right()
            if rows[tiles]["ok"]:
                graphs[tiles] = Graph(calls, warmup=1)
        except Exception as error:  # noqa: BLE001  tiles that this device cannot hold are a result, not a failure
            rows[tiles]["why"] = f"{type(error).__name__}: {str(error)[:300]}"

    def timed(chosen: list[tuple[int, ...]], rounds: int) -> None:
        for name, times in interleaved({str(tiles): graphs[tiles] for tiles in chosen}, rounds).items():
            next(row for tiles, row in rows.items() if str(tiles) == name)["median_us"] = summary(times)["median"]

    timed(list(graphs), QUICK)
    timed(sorted(graphs, key=lambda tiles: float(rows[tiles]["median_us"]))[:FINALISTS], ROUNDS)  # type: ignore[arg-type]
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


def finalists(rows: list[dict[str, Any]]) -> dict[Key, list[tuple[int, ...]]]:
    """Of each problem the right tiles that are fast alone, the fastest first: those that a frame may be tried with."""
    timed: dict[Key, list[tuple[float, tuple[int, ...]]]] = {}
    for row in rows:
        if row["ok"] and "median_us" in row:
            timed.setdefault((row["operation"], row["key"]), []).append((row["median_us"], tuple(row["tiles"])))
    return {key: [tiles for us, tiles in sorted(found)[:TRIED] if us <= NEAR * min(found)[0]] for key, found in timed.items()}


class Table:
    """The device's table, and the report on how it came about; both are written after every problem.

    What an earlier call has measured on these sources stays as it is, in the table too: what a frame chose is kept.
    """

    def __init__(self, output: Path):
        self._output, self._device = output, torch.cuda.get_device_name()
        self._kept = tables.read(self._device)
        before = earlier(output)
        rows: list[dict[str, Any]] = before.get("rows", [])
        self._measured = {(row["operation"], row["key"]) for row in rows if "median_us" in row}
        self.before = [row for row in rows if self.is_measured((row["operation"], row["key"]))]
        self.rows: list[dict[str, Any]] = []
        self.found: dict[str, Any] = {"products": before.get("products", []), "no_time_for": [], "failed": {}}

    def is_measured(self, problem: Key) -> bool:
        """Whether some candidate of it had a time in an earlier call: else all of them are tried again."""
        return problem in self._measured

    def write(self, ok: bool = False, engine: dict[str, Any] | None = None) -> None:
        rows = self.before + self.rows
        table = dict(self._kept)
        for name in ("linear", "attention"):
            entries = {**fastest(self.before).get(name, {}), **self._kept.get(name, {}), **fastest(self.rows).get(name, {})}
            if engine is not None and not self.found["no_time_for"]:  # all that there is: what else is listed belongs to other sources
                entries = {
                    key: tiles for key, tiles in entries.items() if any((row["operation"], row["key"]) == (name, key) for row in rows)
                }
            if entries:
                table[name] = entries
        if engine is not None:
            table["engine"] = engine
        tables.write(self._device, table)
        write(self._output, {"ok": ok, "rows": rows, **self.found, "table": table})


def tune(table: Table) -> bool:
    """Tiles; whether every problem has some, and every candidate that ran was right. Of a problem without, "failed" has the first reason."""
    for make in problems():
        problem = make()
        if table.is_measured((problem.operation, problem.key)):
            continue
        if seconds_left(3600) < 2 * LAST_S:
            table.found["no_time_for"].append(f"{problem.operation} {problem.key}")
            continue
        rows = measure(problem)
        table.rows += rows
        timed = [row for row in rows if "median_us" in row]
        if timed:
            best = min(timed, key=lambda row: row["median_us"])
            counted = f"{len(timed)} of {len(rows)} timed"
            print(f"{problem.operation} {problem.key}: {best['tiles']} {best['median_us']:.2f} us, {counted}", flush=True)
        else:
            why = next((row["why"] for row in rows if "why" in row), "every one is wrong" if rows else "none fits this device")
            table.found["failed"][f"{problem.operation} {problem.key}"] = why
            print(f"{problem.operation} {problem.key}: no tiles: {why}", flush=True)
        table.write()
    return not table.found["failed"] and all(row["ok"] or "why" in row for row in table.before + table.rows)


def compare(table: Table) -> dict[str, Any]:
    """The engine's choices: each product by the tuned kernel or by the library, the head's convolutions."""
    for model in MODELS:
        config = preset(model)
        for name, counts in shapes(config, 1).items():
            outputs, inputs, *rest = dimensions(config)[name]
            for count in sorted(counts):
                shape = f"{count}x{outputs}x{inputs}"
                if any((row["product"], row["shape"]) == (name, shape) for row in table.found["products"]):
                    continue
                if seconds_left(3600) < LAST_S:
                    table.found["no_time_for"].append(f"{model} {name} {count}")
                    continue
                times = measure_product(count, outputs, inputs, *rest)
                row = {"model": model, "product": name, "shape": shape, **times}
                table.found["products"].append(row)
                print(f"{name} {row['shape']}: fused {times['fused']:.1f} us, library {times['library']:.1f} us", flush=True)
    head = table.found["head"] = measure_head(preset(MODELS[0]))
    products = {row["shape"]: min(("fused", "library"), key=lambda choice: row[choice]) for row in table.found["products"]}
    right = [kind for kind in head["us"] if head["difference"][kind] < 1e-2]
    convolutions = min(right, key=lambda kind: head["us"][kind], default="library")
    return {"verified": True, "fused_up_to_rows": 1024, "products": products, "convolutions": convolutions}


def main(output: Path) -> int:
    reason = esat_kernels.backends()["triton"]
    if reason is not None or not torch.cuda.is_available():
        print(f"{reason or 'no CUDA device'}: nothing is tuned")
        write(output, {"ok": False, "why": reason})
        return 2
    torch.manual_seed(0)
    full_float32()
    table = Table(output)
    right = tune(table)
    table.write(False)
    engine = compare(table)
    good = right and not table.found["no_time_for"]
    table.write(good, engine)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
