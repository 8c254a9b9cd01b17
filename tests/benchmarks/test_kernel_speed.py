"""pytest-benchmark of single kernels: `pytest tests/benchmarks/test_kernel_speed.py --benchmark-only`. In an ordinary run each is called once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.peers.frame import patch_rows
from conformance import golden
from engine.config import preset
from engine.runners.cpu.network import CpuNetwork, unsupported
from esat_kernels import _native, testing
from esat_kernels.attention import native
from esat_kernels.attention.common import Scores
from tests.require import require

TOLERANCES = {"fp32": 1e-5, "bf16": 1e-2, "int8": 5e-2}  # relative error of a layer


@pytest.fixture(autouse=True)
def _needs(benchmark: Any, request: pytest.FixtureRequest) -> None:
    """The native library; and no measuring unless --benchmark-only asks for it: the function is called once then."""
    require("cpu", _native.unavailable())
    benchmark.disabled = not request.config.getoption("--benchmark-only")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("tokens", [720, 343])
def test_attention_forward(benchmark, tokens: int, dtype: torch.dtype) -> None:
    case = testing.make_case("normal", 1, 12, tokens, 64, dtype, strided=True)
    out, _, _ = benchmark(native.forward, case.q, case.k, case.v, case.forces, Scores(144, 65), False)
    assert testing.check(case, out).ok


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_attention_backward(benchmark, dtype: torch.dtype) -> None:
    case = testing.make_case("normal", 2, 6, 320, 64, dtype, strided=True)
    out, _, lse = native.forward(case.q, case.k, case.v, case.forces, Scores())
    grads = benchmark(native.backward, out, case.q, case.k, case.v, out, lse, case.forces)
    assert all(budget.ok for budget in testing.check_gradients(case, out, grads).values())


@pytest.mark.parametrize("mode", ["fp32", "bf16", "int8"])
def test_layers_around_attention(benchmark, mode: str) -> None:
    """All products of one ViT-S layer of 320 tokens: output projection, MLP, the next q, k, v."""
    require(mode, unsupported(preset("esat-s-256"), mode))
    weights = golden.draw_weights(preset("esat-s-256").replace(depth=3, elimination_layers=()), 3, 1.0, Path("layers"))
    network = CpuNetwork(weights, mode)
    template, search = golden.draw_images(128, 256, 3)
    network.patches.copy_(patch_rows(search, network.dtype))
    network.run(network.encode_template(patch_rows(template, network.dtype)))
    attended, tokens = network._attended[0], network._tokens[0]
    benchmark(network._encoder.finish_layer, 1, attended, tokens, network._qkv, 320)
    before = tokens[:320].clone()
    network._encoder.finish_layer(1, attended, tokens, network._qkv, 320)
    layer, following = weights.model("reference").backbone.blocks[1:3]
    with torch.inference_mode():
        expected = before.float() + layer.attn.proj(attended[:320].float())
        expected += layer.mlp(layer.norm2(expected))
        qkv = following.attn.qkv(following.norm1(expected))
    for found, exact in ((tokens[:320], expected), (network._qkv[:320], qkv)):
        assert (found.float() - exact).norm() < TOLERANCES[mode] * exact.norm()
