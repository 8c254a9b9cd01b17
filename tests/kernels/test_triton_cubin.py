"""The Triton kernels' machine code for sm_80 and sm_90, compiled here: what a GPU will run, but not how fast or whether right."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from benchmarks.sass import find_tool
from esat_kernels.attention import triton_tiles
from tests.kernels import cubin
from tests.require import require

pytestmark = pytest.mark.cubin

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
MULTIPROCESSORS = {80: 108, 90: 132}
SLICES = 12  # batch * heads of ViT-B at batch 1


@pytest.fixture(scope="module", autouse=True)
def _triton():
    require("triton", None if importlib.util.find_spec("triton") else "Triton is not installed")
    require("triton", None if find_tool("cuobjdump") else "no cuobjdump")


def _compile(kernel, architecture, dtype, head_dim, tiles, **constants):
    shape = {"HEAD_DIM": head_dim, "BLOCK_D": triton_tiles.padded(head_dim), "BLOCK_M": tiles.block_m, "BLOCK_N": tiles.block_n}
    facts, shared, _ = cubin.compile_triton(
        kernel, architecture, dtype, {**shape, "ATTRACT": True, **constants}, tiles.num_warps, tiles.num_stages
    )
    assert shared <= cubin.SHARED_LIMIT[architecture]
    assert facts.stack == 0, "registers spill"
    assert facts.instructions["LDL"] + facts.instructions["STL"] == 0
    assert facts.registers * tiles.num_warps * 32 <= 65536
    matrix = facts.instructions["HMMA"] + facts.instructions["HGMMA"]
    assert (matrix > 0) == (dtype != "fp32")
    return facts


def _forward_tiles(architecture, head_dim, dtype):
    sizes = [(tokens, slices) for tokens in (720, 548, 427, 343) for slices in (SLICES, 16 * SLICES)]
    chosen = {triton_tiles.forward_tiles(*size, head_dim, DTYPES[dtype], MULTIPROCESSORS[architecture]) for size in sizes}
    return sorted(chosen, key=lambda tiles: tiles.block_m)


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize(("dtype", "head_dim"), [("bf16", 64), ("bf16", 96), ("fp32", 64), ("fp32", 96)])
def test_forward(architecture, dtype, head_dim):
    from esat_kernels.attention.triton_forward import forward_kernel

    for tiles in _forward_tiles(architecture, head_dim, dtype):
        facts = _compile(forward_kernel, architecture, dtype, head_dim, tiles, REPEL=True)
        # Two exponentials a score, in the loop over whole tiles and in the ragged tile, and one per row to rescale in each of them.
        scores = tiles.block_m * tiles.block_n // (32 * tiles.num_warps)
        assert 4 * scores <= facts.instructions["MUFU.EX2"] <= 4 * scores + 2 * tiles.block_m


@pytest.mark.parametrize("architecture", [80, 90])
def test_plain_attention_pays_for_one_exponential(architecture):
    from esat_kernels.attention.triton_forward import forward_kernel

    tiles = _forward_tiles(architecture, 64, "bf16")[0]
    facts = _compile(forward_kernel, architecture, "bf16", 64, tiles, ATTRACT=False, REPEL=False)
    scores = tiles.block_m * tiles.block_n // (32 * tiles.num_warps)
    assert 2 * scores <= facts.instructions["MUFU.EX2"] < 3 * scores


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize(("dtype", "head_dim"), [("bf16", 64), ("bf16", 96), ("fp32", 64), ("fp32", 96)])
def test_backward(architecture, dtype, head_dim):
    from esat_kernels.attention.triton_backward import keys_kernel, queries_kernel

    for kernel, tiles in (
        (queries_kernel, triton_tiles.queries_tiles(head_dim, DTYPES[dtype])),
        (keys_kernel, triton_tiles.keys_tiles(head_dim, DTYPES[dtype])),
    ):
        facts = _compile(kernel, architecture, dtype, head_dim, tiles)
        scores = tiles.block_m * tiles.block_n // (32 * tiles.num_warps)
        assert facts.instructions["MUFU.EX2"] == 2 * scores


@pytest.mark.parametrize("architecture", [80, 90])
def test_elimination_scores(architecture):
    from esat_kernels.attention.triton_forward import scores_kernel

    constants = {"HEAD_DIM": 64, "BLOCK_D": 64, "BLOCK_N": triton_tiles.SCORES_BLOCK}
    compiled = cubin.compile_triton(scores_kernel, architecture, "bf16", constants, triton_tiles.SCORES_WARPS, 3)
    assert compiled.facts.stack == 0
