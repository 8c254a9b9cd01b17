"""The eight-bit products of a frame as their launches specialise them: machine code for sm_90 and sm_89, compiled, not run."""

from __future__ import annotations

import dataclasses
import importlib.util
import re

import pytest
import torch

import esat_kernels
from benchmarks.sass import find_tool
from esat_kernels import _device
from esat_kernels import _triton as shared
from esat_kernels.linear import fp8
from esat_kernels.linear import triton_fp8 as linear
from esat_kernels.linear import triton_fp8_tiles as tiling
from tests.kernels import cubin, launches, wgmma
from tests.require import require

pytestmark = [pytest.mark.cubin, pytest.mark.filterwarnings("error::UserWarning")]
SHARED_LIMIT = {89: 99 * 1024, 90: cubin.SHARED_LIMIT[90]}
E4M3_PRODUCTS = {89: r"mma\.sync\S*\.e4m3\.e4m3", 90: r"wgmma\.mma_async\S*m64n\d+k32\S*\.e4m3\.e4m3"}
SPILLED = {89: 2, 90: 0}  # instructions that keep registers in memory: on sm_89 one value of the 64 rows of the MLP's second product, once
ROWS, DIM, HIDDEN = 343, 768, 3072


@pytest.fixture(autouse=True)
def _triton():
    require("triton", None if importlib.util.find_spec("triton") else "Triton is not installed")
    require("triton", None if find_tool("cuobjdump") else "no cuobjdump")


def work(product: str) -> linear.Work:
    """A product of esat-384 with everything around it."""
    stream = torch.zeros(1, ROWS, DIM)
    tokens, hidden = fp8.scaled_memory(stream, DIM, True), fp8.scaled_memory(stream, HIDDEN, False)
    if product == "projection":
        weight = torch.zeros(DIM, DIM, dtype=torch.bfloat16)
        return linear.Work(stream.bfloat16(), None, None, weight, None, None, None, stream, None, 0.0, stream, *tokens)
    if product == "mlp_in":
        bias, (values, scales, sums) = torch.zeros(HIDDEN, dtype=torch.bfloat16), fp8.scaled_weight(torch.zeros(HIDDEN, DIM))
        return linear.Work(*tokens, values, scales, sums, bias, None, "gelu", 1e-6, None, *hidden)
    bias, (values, scales, sums) = torch.zeros(DIM, dtype=torch.bfloat16), fp8.scaled_weight(torch.zeros(DIM, HIDDEN))
    left = esat_kernels.centred_memory(stream)
    return linear.Work(*hidden, values, scales, sums, bias, stream, None, 0.0, stream, left.rows, None, left.statistics)


@pytest.mark.parametrize("architecture", [90, 89])
@pytest.mark.parametrize("product", ["projection", "mlp_in", "mlp_out"])
def test_every_tile(product, architecture):
    """No spills, no hazards, and between two additions in float32 no more than 128 products on the matrix units."""
    given = work(product)
    split = product == "mlp_out"  # the one that a frame splits
    tiles = tiling.candidates(given.x.shape[2], given.weight.dtype, SHARED_LIMIT[architecture])
    tiles = [one for one in tiles if one.splits == 1 or (one.splits == 2 and split)]
    assert {one.block_m for one in tiles} >= ({64, 128} if product != "projection" else {16, 32, 64, 128})
    with launches.recorded(architecture) as found:
        for one in tiles:
            linear.launch(given, one)
    assert len(found) == sum(one.splits for one in tiles)  # a split one is followed by its sum
    for launch in found:
        compiled = launch.compiled
        (facts,) = cubin.inspect(compiled.asm["cubin"]).values()
        assert facts.instructions["LDL"] + facts.instructions["STL"] <= SPILLED[architecture], "registers spill"
        assert compiled.metadata.shared <= SHARED_LIMIT[architecture]
        assert not wgmma.hazards(compiled.asm["ttgir"], compiled.metadata.num_stages)
        if launch.name == "fp8_sum_kernel":
            continue
        products = len(re.findall(E4M3_PRODUCTS[architecture], compiled.asm["ptx"]))
        assert (products > 0) == (product != "projection")
        if product != "projection" and architecture == 90:
            assert facts.instructions["QGMMA"] == products == fp8.GROUP // 32
            assert "ttng.warp_group_dot_wait" in compiled.asm["ttgir"]


def test_the_tiles_of_a_frame_fit_every_device():
    for memory in SHARED_LIMIT.values():
        for dtype in (fp8.E4M3, torch.bfloat16):
            for inner in (128, DIM, HIDDEN):
                chosen = tiling.product_tiles(ROWS, inner, DIM, dtype, 132, shared_memory=memory)
                assert chosen.shared_bytes(dtype.itemsize, dtype.itemsize) < memory
                assert chosen.block_k * dtype.itemsize == fp8.GROUP


def test_launches_before_the_one_in_front_is_done(monkeypatch):
    monkeypatch.setattr(_device, "has_dependent_launches", lambda device: True)
    given = work("mlp_out")
    tiles = dataclasses.replace(tiling.candidates(HIDDEN, fp8.E4M3)[-1], splits=2)
    with shared.dependent_launches(True), launches.recorded(90) as found:
        linear.launch(given, tiles)
    assert [launch.name for launch in found] == ["fp8_product_kernel", "fp8_sum_kernel"]
    for launch in found:
        assert launch.compiled.metadata.launch_pdl
        before, after = launch.compiled.asm["ptx"].split("griddepcontrol.wait", 1)
        assert not re.search(r"\b(ld|st|atom|red)\.global|cp\.async\.c[ag]", before)
        assert "griddepcontrol.launch_dependents" in after
        assert ("cp.async.bulk.prefetch.L2.global" in before) == (launch.name == "fp8_product_kernel")
