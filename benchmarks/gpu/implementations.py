"""Each product of a frame by the kernel against PyTorch's calls around cuBLASLt, and the head by each kind of convolution."""

from __future__ import annotations

from typing import Any, get_args

import torch

import esat_kernels
from benchmarks.gpu.inputs import model_weights
from benchmarks.gpu.timing import Graph, Work, copies, interleaved, summary
from engine.config import ModelConfig
from engine.runners.gpu.choices import Choices, Convolutions
from engine.runners.gpu.head import Head
from engine.runners.gpu.products import Product, Stream
from engine.runners.gpu.weights import fold_weights

FUSED, LIBRARY = Choices(False, 1 << 30), Choices(False, 0, {}, "library")
DEVICE, DTYPE = torch.device("cuda"), torch.bfloat16
CALLS, ROUNDS = 8, 15


def _median_us(works: dict[str, list[Work]]) -> dict[str, float]:
    graphs = {name: Graph(calls) for name, calls in works.items()}
    return {name: summary(times)["median"] for name, times in interleaved(graphs, ROUNDS).items()}


@torch.no_grad()
def measure_product(rows: int, outputs: int, inputs: int, norm: bool, gelu: bool, residual: bool) -> dict[str, float]:
    """Microseconds of both implementations on one shape, with the LayerNorm in front; the fused one has it from the product before, for which a
    product with a residual leaves what that takes.
    """
    weights = [torch.randn(outputs, inputs, device=DEVICE, dtype=DTYPE) / inputs**0.5 for _ in range(min(16, copies(2 * outputs * inputs)))]
    bias = torch.randn(outputs, device=DEVICE, dtype=DTYPE)
    x = torch.randn(1, rows, inputs, device=DEVICE, dtype=torch.float32 if norm else DTYPE)
    added = torch.randn(1, rows, outputs, device=DEVICE) if residual else None
    centred = esat_kernels.centred_memory(x)
    if centred is not None:
        centred.rows.normal_()
        centred.statistics.fill_(1.0)
    counters = esat_kernels.meeting_counters(DEVICE)
    works: dict[str, list[Work]] = {}
    for name, choices in (("fused", FUSED), ("library", LIBRARY)):
        products = [Product(weight, bias, choices, "triton", norm, gelu, counters) for weight in weights]
        calls = [lambda p=p: p(Stream(x, centred)) if added is None else p.stream(x, added) for p in products]  # type: ignore[misc]
        works[name] = calls
    return _median_us(works)


@torch.no_grad()
def measure_head(config: ModelConfig) -> dict[str, Any]:
    """Microseconds of the head with each kind of convolution, and how far its score is from the library's, or why one cannot run."""
    weights = model_weights(config.name)
    folded = fold_weights(weights.state_dict, config, DEVICE, DTYPE, LIBRARY, "triton").head
    features = torch.randn(1, config.num_search, config.dim, device=DEVICE, dtype=DTYPE)
    heads = {kind: Head(folded, config.search_grid, kind, "triton") for kind in get_args(Convolutions)}
    found: dict[str, Any] = {"us": {}, "difference": {}, "why": {}}
    works: dict[str, list[Work]] = {}
    expected = heads["library"](features).score
    for kind, head in heads.items():
        try:
            found["difference"][kind] = (head(features).score - expected).abs().max().item()
            works[kind] = [lambda head=head: head(features)] * CALLS  # type: ignore[misc]
        except RuntimeError as failure:
            found["why"][kind] = str(failure)[:300]
    return {**found, "us": _median_us(works)}
