"""Eight-bit products at the shapes of a frame, every tile against the reference and timed beside the product in bfloat16; then a frame in fp8 beside
one in bf16, whose checks are that each layer agrees with the reference in fp8, that it repeats itself, and that a graph equals the eager calls.

The fastest tiles go into the device's table, `esat_kernels/tuned/<device>.json`.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import esat_kernels
from benchmarks.gpu import products, tables
from benchmarks.gpu.accuracy import DEVICE, DTYPE, NetworkFrame, wait
from benchmarks.gpu.fp8_checks import exact, layer_errors, layers_of, right
from benchmarks.gpu.frame import Clock, WholeFrame, repetitions_equal, times
from benchmarks.gpu.inputs import full_float32, images, model_weights
from benchmarks.gpu.parts import earlier, seconds_left, write
from benchmarks.gpu.timing import Graph, copies, interleaved, summary
from engine.runners.gpu.network import GpuNetwork, Kernels
from engine.weights.io import Weights
from esat_kernels import _triton
from esat_kernels.linear import fp8, reference_fp8
from esat_kernels.linear import triton as linear
from esat_kernels.linear import triton_fp8 as eight
from esat_kernels.linear import triton_fp8_tiles as tiling
from esat_kernels.linear.common import COUNTERS
from esat_kernels.linear.triton_tiles import Tiles, shape_key

MODEL = "esat-384"
ROUNDS, REPETITIONS, LAST_S = 9, 200, 4
MOST_COPIES = 64  # of a weight: the smallest one, a projection's, is then 75 MB


@dataclasses.dataclass(frozen=True)
class Product:
    """One of the three products around eight bits, of so many rows."""

    name: str
    rows: int
    inputs: int
    outputs: int

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.name == "projection" else fp8.E4M3

    @property
    def key(self) -> str:
        return shape_key(self.rows, self.inputs, self.outputs, self.dtype, self.dtype)

    def work(self, device: torch.device) -> eight.Work:
        """Fresh random operands, and memory for what it leaves."""
        x = torch.randn(1, self.rows, self.inputs, device=device)
        weight = torch.randn(self.outputs, self.inputs, device=device) * self.inputs**-0.5
        bias = torch.randn(self.outputs, device=device, dtype=DTYPE)
        residual = torch.randn(1, self.rows, self.outputs, device=device)
        if self.name == "projection":
            left = fp8.scaled_memory(x, self.outputs, True)
            return eight.Work(
                x.to(DTYPE), None, None, weight.to(DTYPE), None, None, bias, residual, None, 0.0, torch.empty_like(residual), *left
            )
        given, scaled = fp8.scaled_memory(x, self.inputs, self.name == "mlp_in"), fp8.scaled_weight(weight)
        reference_fp8.leave(x[0], *given)
        if self.name == "mlp_in":
            return eight.Work(*given, *scaled, bias, None, "gelu", 1e-6, None, *fp8.scaled_memory(x, self.outputs, False))
        out = torch.empty_like(residual)
        centred = esat_kernels.centred_memory(out)
        assert centred is not None
        return eight.Work(*given, *scaled, bias, residual, None, 0.0, out, centred.rows, None, centred.statistics)

    def candidates(self, shared_memory: int) -> list[Tiles]:
        return tiling.candidates(self.inputs, self.dtype, shared_memory)


def frame_products(model: str) -> list[Product]:
    config = products.preset(model)
    found = []
    for name, counts in products.shapes(config, 1).items():
        outputs, inputs, *_ = products.dimensions(config)[name]
        if name in ("projection", "mlp_in", "mlp_out"):
            found += [Product(name, rows, inputs, outputs) for rows in sorted(counts)]
    return found


def places(weight: Tensor) -> int:
    """At how many places a weight has to lie so that none is still in the L2 when its turn comes: a frame reads each once."""
    return min(MOST_COPIES, copies(weight.nbytes))


def cold(work: eight.Work) -> list[eight.Work]:
    """The same product once for each of its weight's `places`."""
    names = [name for name in ("weight", "weight_scales", "group_sums") if getattr(work, name) is not None]
    return [
        work,
        *(dataclasses.replace(work, **{name: getattr(work, name).clone() for name in names}) for _ in range(places(work.weight) - 1)),
    ]


def rows_of(
    product: Product, launch: Callable[[eight.Work, Tiles], None] = eight.launch, timed: bool = True, device: torch.device = DEVICE
) -> list[dict[str, Any]]:
    """One row for each tile: whether it is right, its median beside the best product in bfloat16 without what stands around it."""
    work = product.work(device)
    values, limit = exact(work)
    memory = _triton.shared_memory(work.x.device)
    works = cold(work) if timed else []
    rows: dict[str, dict[str, Any]] = {}
    graphs: dict[str, Graph] = {}
    for tiles in product.candidates(memory):
        row = rows[str(tiles)] = {"product": product.name, "key": product.key, "tiles": list(dataclasses.astuple(tiles)), "ok": False}
        for tensor in (work.out, work.left_rows, work.left_scales, work.left_statistics):
            if tensor is not None:
                tensor.zero_()
        try:
            launch(work, tiles)
            row["ok"] = right(work, values, limit)
            if timed and row["ok"]:
                graphs[str(tiles)] = Graph([lambda w=one, t=tiles: launch(w, t) for one in works], warmup=1)  # type: ignore[misc]
        except Exception as error:  # noqa: BLE001  tiles that this device cannot hold are a result, not a failure
            row["why"] = f"{type(error).__name__}: {str(error)[:300]}"
    if timed and graphs:
        shape = products.Shape(product.rows, product.inputs, product.outputs, work.activation, work.residual is not None)
        x, weight, bias, residual = shape.operands(device)
        chosen = linear._tiles(shape.rows, x, weight, COUNTERS)  # as in a frame: its products have counters
        weights = [weight.clone() for _ in range(places(weight))]
        graphs["bf16"] = Graph([lambda w=one: shape.run(x, w, bias, residual, chosen) for one in weights], warmup=1)  # type: ignore[misc]
        for name, found in interleaved(graphs, ROUNDS).items():
            median = summary(found)["median"]
            for row in rows.values() if name == "bf16" else [rows[name]]:
                row["bf16_us" if name == "bf16" else "median_us"] = median
    return list(rows.values())


def is_measured(key: str, rows: list[dict[str, Any]]) -> bool:
    """Whether some tile of a product has a time, so that another call need not go through them again."""
    return any(row["key"] == key and "median_us" in row for row in rows)


def fastest(rows: list[dict[str, Any]]) -> dict[str, list[int]]:
    """The table's entries: of each problem the right tiles with the smallest median."""
    timed = sorted((row for row in rows if row["ok"] and "median_us" in row), key=lambda row: -row["median_us"])
    return {row["key"]: row["tiles"] for row in timed}


@torch.no_grad()
def frames(
    weights: Weights, backend: str, device: torch.device = DEVICE, clock: Clock = times, repetitions: int = REPETITIONS
) -> dict[str, Any]:
    """Milliseconds of a whole frame in bf16 and in fp8, in turn, if what fp8 computes is right; and what it changes in the score map."""
    networks = {name: GpuNetwork(weights, device, DTYPE, Kernels.of(backend), name == "fp8") for name in ("bf16", "fp8")}
    alone = {name: NetworkFrame(network, *images(weights.config, 1, device)) for name, network in networks.items()}
    seen = {name: frame.eager() for name, frame in alone.items()}
    replay = alone["fp8"].captured()
    equal = torch.equal(replay().maps.score, seen["fp8"].maps.score) and repetitions_equal(replay, repetitions)
    difference = float((seen["fp8"].maps.score.float() - seen["bf16"].maps.score.float()).abs().max())
    errors = layer_errors(weights, layers_of(alone["fp8"]))
    wait(device)
    captured = {name: WholeFrame(network, 1).captured() for name, network in networks.items()}
    found: dict[str, Any] = {
        "model": weights.config.name,
        "backend": backend,
        "ok": equal and errors["ok"],
        "repeats": equal,
        "layer_errors": errors,
        "score_difference": difference,  # told, not judged: random weights leave near ties, which rounding decides
    }
    for name in ("bf16", "fp8", "bf16", "fp8") if found["ok"] else ():
        found.setdefault(f"{name}_ms", []).append(clock(captured[name])["median_ms"])
    return found


def compile_all() -> None:
    """Every candidate once, and the kernels of a frame."""
    for product in frame_products(MODEL):
        work = product.work(DEVICE)
        for tiles in product.candidates(_triton.shared_memory(DEVICE)):
            eight.launch(work, tiles)
    WholeFrame(GpuNetwork(model_weights(MODEL), DEVICE, DTYPE, Kernels.of("triton"), True), 1).eager()


def main(output: Path) -> int:
    full_float32()
    reason = esat_kernels.fp8_unsupported(DEVICE)
    if reason is not None:
        print(reason)
        write(output, {"ok": True, "why": reason, "rows": []})
        return 0
    device, skipped = torch.cuda.get_device_name(), []
    backend = "cuda" if esat_kernels.backends()["cuda"] is None else "triton"
    before = earlier(output)
    rows: list[dict[str, Any]] = [row for row in before.get("rows", []) if is_measured(row["key"], before["rows"])]
    found: dict[str, Any] = {"frame": before.get("frame", {})}
    if not found["frame"].get("ok"):
        found["frame"] = frames(model_weights(MODEL), backend)  # first: with the tiles of the estimate
    write(output, {"ok": False, "rows": rows, **found})
    for product in frame_products(MODEL):
        if is_measured(product.key, rows):
            continue
        if seconds_left(3600) < LAST_S:
            skipped.append(product.key)
            continue
        rows += rows_of(product)
        tables.write(device, {**tables.read(device), tiling.TABLE: {**tables.read(device).get(tiling.TABLE, {}), **fastest(rows)}})
        write(output, {"ok": False, "rows": rows, **found})
    found["tuned_frame"] = frames(model_weights(MODEL), backend, repetitions=1) if seconds_left(3600) > LAST_S else None
    for row in sorted(rows, key=lambda row: (row["key"], row.get("median_us", float("inf")))):
        print(
            f"{row['product']} {row['key']} {row['tiles']}: "
            + (f"{row['median_us']:.2f} us, bf16 {row['bf16_us']:.2f}" if row["ok"] else str(row))
        )
    print(found)
    right_for = {row["key"] for row in rows if row["ok"]}
    good = all((row["ok"] or "why" in row) and row["key"] in right_for for row in rows) and not skipped
    good &= all(frame["ok"] for frame in (found["frame"], found["tuned_frame"]) if frame is not None)
    write(output, {"ok": good, "rows": rows, "no_time_for": skipped, **found})
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
