"""Which implementation of each product is faster here: the engine's one fused kernel, or PyTorch's calls around cuBLASLt; likewise the head.

Prints and writes the part "engine" of the device's table, `esat_kernels/tuned/<device>.json`; somebody who has looked at it copies it there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

import esat_kernels
from benchmarks.gpu.inputs import model_weights
from benchmarks.gpu.parts import write
from benchmarks.gpu.timing import Graph, Work, copies, interleaved, summary
from engine.config import ModelConfig, preset
from engine.runners.gpu.choices import Choices
from engine.runners.gpu.head import Head
from engine.runners.gpu.products import Product
from engine.runners.gpu.weights import fold_weights

BATCHES, ROUNDS, CALLS = (1, 4, 16), 20, 8
FUSED, LIBRARY = Choices(False, 1 << 30, {}, False), Choices(False, 0, {}, False)
DEVICE, DTYPE = torch.device("cuda"), torch.bfloat16


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


def _median_us(works: dict[str, list[Work]]) -> dict[str, float]:
    graphs = {name: Graph(calls) for name, calls in works.items()}
    return {name: summary(times)["median"] for name, times in interleaved(graphs, ROUNDS).items()}


@torch.no_grad()
def measure_product(rows: int, outputs: int, inputs: int, norm: bool, gelu: bool, residual: bool) -> dict[str, float]:
    """Microseconds of both implementations on one shape."""
    weights = [torch.randn(outputs, inputs, device=DEVICE, dtype=DTYPE) / inputs**0.5 for _ in range(copies(2 * outputs * inputs))]
    bias = torch.randn(outputs, device=DEVICE, dtype=DTYPE)
    x = torch.randn(rows, inputs, device=DEVICE, dtype=torch.float32 if norm else DTYPE)
    added = torch.randn(rows, outputs, device=DEVICE) if residual else None
    works: dict[str, list[Work]] = {}
    for name, choices in (("fused", FUSED), ("library", LIBRARY)):
        products = [Product(weight, bias, choices, "triton", norm, gelu) for weight in weights]
        works[name] = [lambda product=product: product(x, added) for product in products]  # type: ignore[misc]
    return _median_us(works)


@torch.no_grad()
def measure_head(config: ModelConfig) -> dict[str, Any]:
    """Microseconds of the head with PyTorch's convolutions and with cuDNN's fused ones, or why those cannot run."""
    weights = model_weights(config.name)
    folded = fold_weights(weights.state_dict, config, DEVICE, DTYPE, LIBRARY, "triton").head
    features = torch.randn(1, config.num_search, config.dim, device=DEVICE, dtype=DTYPE)
    heads = {name: Head(folded, config.search_grid, fused) for name, fused in (("library", False), ("fused", True))}
    try:
        error = (heads["fused"](features).score - heads["library"](features).score).abs().max().item()
        return {**_median_us({name: [lambda head=head: head(features)] * CALLS for name, head in heads.items()}), "difference": error}  # type: ignore[misc]
    except RuntimeError as failure:
        return {"why": str(failure)[:300]}


def main(output: Path) -> int:
    reason = esat_kernels.backends()["triton"]
    if reason is not None:
        write(output, {"ok": False, "why": reason})
        return 1
    torch.manual_seed(0)
    config = preset("esat-384")
    rows: list[dict[str, Any]] = []
    for batch in BATCHES:
        for name, counts in shapes(config, batch).items():
            outputs, inputs, *rest = dimensions(config)[name]
            for count in sorted(counts):
                times = measure_product(count, outputs, inputs, *rest)
                rows.append({"product": name, "batch": batch, "shape": f"{count}x{outputs}x{inputs}", **times})
                print(f"{name} {rows[-1]['shape']}: fused {times['fused']:.1f} us, library {times['library']:.1f} us", flush=True)
            write(output, {"ok": False, "rows": rows})
    head = measure_head(config)
    products = {row["shape"]: min(("fused", "library"), key=lambda choice: row[choice]) for row in rows}
    better = "fused" in head and head["fused"] < head["library"] and head["difference"] < 1e-2
    entry = {"verified": True, "fused_up_to_rows": 1024}
    entry |= {"products": products, "fused_convolutions": better}
    write(output, {"ok": True, "rows": rows, "head": head, "engine": entry})
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
