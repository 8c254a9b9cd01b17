"""What each stage of our CPU network must compute and move, against what this machine reaches in the same run.

FLOPs count every product the engine makes, two for a multiply-accumulate. Bytes are the least that has to move: weights, inputs and outputs
of the stage once. The machine's rates are the fastest product and copy seen in this run, not a data sheet's. For int8, the products in eight
bits (q, k, v and the MLP) have a rate of their own, and everything else counts as what the engine computes it in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from engine.config import ModelConfig
from engine.runners.cpu.network import activations
from engine.weights.io import Weights

_WINDOW_SIDES = (7, 5, 3, 1)  # outputs of the offset and size branches around the one cell


class Work(NamedTuple):
    """What one stage of a frame needs."""

    flops: float
    bytes: float
    int8_flops: float = 0.0  # of `flops`


def stage_work(weights: Weights, dtype: str) -> dict[str, Work]:
    """Each product stage of one frame, without the template's part that `init` has done."""
    config, size = weights.config, _size(dtype)
    dim, patch = config.dim, 3 * config.patch_size**2
    layers, projection, attention = _encoder(config)
    rest = 3 * dim * dim + 2 * dim * int(config.dim * config.mlp_ratio)
    block = dim * dim * size + rest * (1 if dtype == "int8" else size)
    tokens = sum(config.num_template + keep for keep in (config.num_search, *config.search_tokens_per_layer()[:-1]))
    head_flops, head_weights = _head(weights)
    embed_bytes = (patch * dim + config.num_search * patch) * size + 4 * config.num_search * dim
    return {
        "embed": Work(2.0 * config.num_search * patch * dim, embed_bytes),
        "layers": Work(layers, float(config.depth * block + 2 * 4 * tokens * dim), layers - projection if dtype == "int8" else 0.0),
        "attention": Work(attention, 4.0 * tokens * dim * size),
        "head": Work(head_flops, float((head_weights + config.num_search * dim) * size)),
    }


def _size(dtype: str) -> int:
    return activations(dtype).itemsize


def _encoder(config: ModelConfig) -> tuple[float, float, float]:
    """FLOPs of the layers' products, of the output projections among them, and of attention."""
    dim, hidden, template = config.dim, int(config.dim * config.mlp_ratio), config.num_template
    layers, projection, attention = 2.0 * config.num_search * dim * 3 * dim, 0.0, 0.0  # the first q, k, v
    count = template + config.num_search
    for layer, keep in enumerate(config.search_tokens_per_layer()):
        attention += 4.0 * count * count * dim
        count = template + keep
        last = layer == config.depth - 1
        rows = keep if last else count
        projection += 2.0 * rows * dim * dim
        layers += 2.0 * rows * (dim * dim + 2 * dim * hidden + (0 if last else 3 * dim * dim))
    return layers, projection, attention


def _head(weights: Weights) -> tuple[float, int]:
    """FLOPs of the score branch everywhere and of the others at one cell, and the number of weights."""
    flops, count = 0.0, 0
    for branch in ("ctr", "offset", "size"):
        for layer, side in enumerate(_WINDOW_SIDES, start=1):
            values = weights.state_dict[f"box_head.conv{layer}_{branch}.0.weight"].numel()
            cells = weights.config.num_search if branch == "ctr" else side * side
            flops += 2.0 * cells * values
            count += values
    return flops, count


def _best_seconds(run: Callable[[], object], seconds: float) -> float:
    best, start = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - start < seconds:  # once at least, however late this thread comes to run
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
    return best


def machine_rates(dtype: str, seconds: float) -> dict[str, float]:
    """The fastest of PyTorch's products of 1024 x 1024 matrices, and of copies of 256 MB (read and written bytes), in this run."""
    work = 2 * 1024.0**3
    a, b = torch.randn(2, 1024, 1024, dtype=activations(dtype)).unbind()
    source = torch.zeros(1 << 26)
    target = torch.empty_like(source)
    rates = {
        "flops_per_s": work / _best_seconds(lambda: a @ b, seconds),
        "bytes_per_s": 2.0 * source.numel() * 4 / _best_seconds(lambda: target.copy_(source), seconds),
    }
    if dtype == "int8":
        left, right = torch.randint(-128, 128, (2, 1024, 1024), dtype=torch.int8).unbind()
        rates["int8_flops_per_s"] = work / _best_seconds(lambda: torch._int_mm(left, right), seconds)  # PyTorch's only integer product
    return rates


def roofline(weights: Weights, dtype: str, stages_ms: Mapping[str, float], seconds: float = 1.0) -> dict[str, Any]:
    """Each stage's work, rate, and share of what the machine's rates allow (its bound's time over its time). No share is known of int8
    where PyTorch's integer product is slower than its floating-point one: it has no kernel for this processor, and is not the bound."""
    rates = machine_rates(dtype, seconds)
    known = rates.get("int8_flops_per_s", math.inf) > rates["flops_per_s"]
    rows: dict[str, Any] = {}
    for stage, work in stage_work(weights, dtype).items():
        computing = (work.flops - work.int8_flops) / rates["flops_per_s"]
        if work.int8_flops:
            computing += work.int8_flops / rates["int8_flops_per_s"]
        bound_ms = 1e3 * max(computing, work.bytes / rates["bytes_per_s"])
        spent = stages_ms[stage]
        rows[stage] = {
            "ms": spent,
            "gflop": work.flops / 1e9,
            "mbytes": work.bytes / 1e6,
            "gflop_per_s": work.flops / spent / 1e6,
            "share": bound_ms / spent if known or not work.int8_flops else None,
        }
    return {"machine": rates, "stages": rows}
