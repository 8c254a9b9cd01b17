"""Machine code for sm_80 and sm_90 of the kernels around attention: crop, elimination, the step to the next boxes, products."""

from __future__ import annotations

import dataclasses
import importlib.util
import re

import pytest
import torch

from benchmarks.gpu.products import frame_shapes
from benchmarks.sass import find_tool
from esat_kernels.crop import triton as crop
from esat_kernels.crop.nv12 import MATRICES
from esat_kernels.decode import triton as decode
from esat_kernels.elimination import triton as elimination
from esat_kernels.linear import triton_tiles
from tests.kernels import cubin
from tests.require import require

pytestmark = [pytest.mark.cubin, pytest.mark.parametrize("architecture", [80, 90])]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
MULTIPROCESSORS = {80: 108, 90: 132}


@pytest.fixture(scope="module", autouse=True)
def _triton():
    require("triton", None if importlib.util.find_spec("triton") else "Triton is not installed")
    require("triton", None if find_tool("cuobjdump") else "no cuobjdump")


def compiled(kernel, architecture, constants, num_warps, num_stages=3, dtype="bf16", types=None, fp_fusion=True):
    found = cubin.compile_triton(kernel, architecture, dtype, constants, num_warps, num_stages, types, fp_fusion)
    assert found.shared <= cubin.SHARED_LIMIT[architecture]
    assert found.facts.stack == 0, "registers spill"
    assert found.facts.instructions["LDL"] + found.facts.instructions["STL"] == 0
    assert found.facts.registers * num_warps * 32 <= 65536
    return found


def test_crop(architecture):
    from esat_kernels.crop.triton_kernel import crop_kernel

    types = {"frame_ptr": "*u8", "frame_size_ptr": "*i32", "boxes_ptr": "*fp64", "regions_ptr": "*fp64", "frame_bytes": "i64"}
    types |= {f"{name}_{channel}": "fp32" for name in ("scale", "bias") for channel in range(3)}
    constants = {"FACTOR": 4.1, "LARGEST_SIDE": 2**40, "SIZE": 384, "PATCH": 16, "REVERSE": True, "boxes_stride_b": 4, "boxes_stride_x": 1}
    for dtype, matrix in (("bf16", None), ("fp32", None), ("bf16", tuple(MATRICES["bt709"]))):
        constants["MATRIX"] = matrix
        found = compiled(crop_kernel, architecture, constants, crop.WARPS, dtype=dtype, types=types, fp_fusion=False)
        # As many roundings as in geometry.py: a whole double as factor, exact square root and division, no fused step in float64.
        assert "0d4010666666666666" in found.ptx.lower()
        assert "sqrt.rn.f64" in found.ptx
        assert "div.rn.f64" in found.ptx
        assert "fma.rn.f64" not in found.ptx
        pixels = 16 * 16 // (32 * crop.WARPS)
        assert found.facts.instructions["LDG"] >= 3 * 4 * pixels  # three channels of four neighbours


def test_the_step_to_the_next_boxes(architecture):
    from esat_kernels.decode.triton_kernel import advance_kernel

    types = {"regions_ptr": "*fp64", "boxes_ptr": "*fp64", "frame_size_ptr": "*i32", "record_ptr": "*fp64", "window_ptr": "*fp32"}
    for side in (16, 24, decode.LARGEST_MAP):
        constants = {"MARGIN": 10, "SIDE": side, "BLOCK": 1 << (side * side - 1).bit_length(), "boxes_stride_b": 4, "boxes_stride_x": 1}
        constants["BLOCK_C"] = decode.BLOCK_C
        found = compiled(advance_kernel, architecture, constants, decode.warps(side), dtype="fp32", types=types, fp_fusion=False)
        assert "div.rn.f32" in found.ptx
        assert "fma.rn.f64" not in found.ptx


@pytest.mark.parametrize("block", [1024, elimination.LARGEST_COUNT])
def test_selection(architecture, block):
    from esat_kernels.elimination.triton_kernels import eliminate_kernel, select_kernel

    pointers = {"kept_ptr": "*i64", "scores_ptr": "*fp32"}
    constants = {"scores_stride_n": 1, "BLOCK": block}
    compiled(select_kernel, architecture, constants, elimination.WARPS, types=pointers)
    streams = {"first_ptr": "*fp32", "first_out_ptr": "*fp32", "places_ptr": "*i64"}
    constants |= {"first_stride_c": 1, "second_stride_c": 1, "ROWS": elimination.eliminate_rows(block), "BLOCK_C": elimination.BLOCK_C}
    constants["DEPENDENT"] = False
    compiled(eliminate_kernel, architecture, constants, elimination.WARPS, types=pointers | streams)


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_gather_and_scatter(architecture, dtype):
    from esat_kernels.elimination.triton_kernels import gather_kernel, scatter_kernel

    shape = {"ROWS": elimination.ROWS, "BLOCK_C": elimination.BLOCK_C, "tokens_stride_c": 1}
    pointers = {"kept_ptr": "*i64"}
    compiled(gather_kernel, architecture, shape, elimination.WARPS, dtype=dtype, types=pointers)
    compiled(scatter_kernel, architecture, {**shape, "BLOCK_N": elimination.BLOCK_N}, elimination.WARPS, dtype=dtype, types=pointers)


NO_SQUARES = {"squares_ptr": None, "squares_first": 0, "WIDTH": 1, "GROUPS": 0}
ALONE = {
    **dict.fromkeys(("norm_ptr", "group_sums_ptr", "centred_ptr", "left_ptr")),
    **dict.fromkeys(("NORM_WIDTH", "NORM_GROUPS", "LEFT_WIDTH"), 1),
}
BEHIND = {"residual_ptr": None, "NORM_WIDTH": 64, "NORM_GROUPS": 16}  # a product whose rows are normalised
IN_FRONT = {"ACTIVATION": None, "LEFT_WIDTH": 64}  # one that leaves what such a product needs
KEY_NORMS = {"squares_first": 768, "WIDTH": 64, "GROUPS": 12, "ACTIVATION": None}


def product(architecture, tiles, stream, dtype, **changes):
    """The product with everything around it; `stream` is the dtype of x and the residual."""
    from esat_kernels.linear.triton_kernels import product_kernel

    constants = {
        "ACTIVATION": "gelu",
        "SPLITS": tiles.splits,
        "WHOLE_K": True,
        **NO_SQUARES,
        **ALONE,
        **({} if tiles.splits > 1 else {"parts_ptr": None}),
        **({} if tiles.joined else {"counters_ptr": None}),
        "DEPENDENT": False,
        "PREFETCH": False,
    }
    constants |= {"BLOCK_M": tiles.block_m, "BLOCK_N": tiles.block_n, "BLOCK_K": tiles.block_k, **changes}
    types = {
        "x_ptr": f"*{stream}",
        **dict.fromkeys(("residual_ptr", "bias_ptr", "squares_ptr", "norm_ptr", "left_ptr", "parts_ptr"), "*fp32"),
    }
    types |= {"counters_ptr": "*i32", "eps": "fp32", "out_ptr": "*fp32" if tiles.splits > 1 or "LEFT_WIDTH" in changes else f"*{dtype}"}
    given = {"GROUPS": ("squares_ptr",), "NORM_GROUPS": ("norm_ptr", "group_sums_ptr"), "LEFT_WIDTH": ("centred_ptr", "left_ptr")}
    for name in [pointer for change in changes for pointer in given.get(change, ())]:
        del constants[name]
    found = compiled(product_kernel, architecture, constants, tiles.num_warps, tiles.num_stages, dtype, types)
    matrix = found.facts.instructions["HMMA"] + found.facts.instructions["HGMMA"]
    assert (matrix > 0) == (dtype != "fp32")
    return found


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_every_tile_of_the_product(architecture, dtype):
    for tiles in triton_tiles.candidates(768, DTYPES[dtype], DTYPES[dtype]):
        if tiles.splits == 1:
            product(architecture, tiles, dtype, dtype)


def test_key_norms_of_every_tile(architecture):
    for tiles in triton_tiles.candidates(768, torch.bfloat16, torch.bfloat16):
        if tiles.splits == 1:
            product(architecture, tiles, "bf16", "bf16", **KEY_NORMS)


@pytest.mark.parametrize("around", [BEHIND, {**KEY_NORMS, **BEHIND}, IN_FRONT], ids=["gelu", "qkv", "in front"])
def test_norms_between_products_of_every_bf16_tile(architecture, around):
    for tiles in triton_tiles.candidates(768, torch.bfloat16, torch.bfloat16):
        if tiles.splits == 1:
            product(architecture, tiles, "bf16", "bf16", **around)


def test_a_float32_stream_in_the_tallest_tile(architecture):
    product(architecture, triton_tiles.candidates(768, torch.float32, torch.bfloat16)[0], "fp32", "bf16")


def test_a_ragged_product(architecture):
    chosen = triton_tiles.product_tiles(1, 770, 2304, torch.float32, torch.bfloat16, MULTIPROCESSORS[architecture])
    product(architecture, chosen, "fp32", "bf16", WHOLE_K=False)


def test_the_split_products_of_a_frame(architecture):
    """Those that are chosen at its shapes; unsplit ones are among every tile."""
    types = torch.bfloat16, torch.bfloat16, MULTIPROCESSORS[architecture]
    shapes = [shape for model in ("esat-384", "esat-s-256") for shape in frame_shapes(model)]
    chosen = {triton_tiles.product_tiles(shape.rows, shape.inner, shape.columns, *types) for shape in shapes}
    split = {dataclasses.replace(tiles, splits=2, joined=False) for tiles in chosen if tiles.splits > 1}
    assert any(tiles.block_m == 128 for tiles in split)
    for tiles in split:
        found = product(architecture, tiles, "bf16", "bf16", ACTIVATION=None)
        assert (found.facts.instructions["HGMMA"] > 0) == (architecture == 90 and tiles.block_m >= 64)


@pytest.mark.parametrize("around", [{}, BEHIND, {**KEY_NORMS, **BEHIND}, IN_FRONT], ids=["bf16", "bf16 gelu", "bf16 qkv", "bf16 in front"])
def test_parts_that_meet_in_the_launch(architecture, around):
    """One atomic, between barriers, and no way back to it: nobody waits for another program. Parts are read behind it, from the L2 cache."""
    for tiles in triton_tiles.candidates(3072, torch.bfloat16, torch.bfloat16):
        if tiles.joined:
            found = product(architecture, tiles, "bf16", "bf16", **around)
            before, behind = re.split(r"atom\.global\.gpu\.acq_rel\.add\.u32", found.ptx)
            code = [line.strip() for line in before.splitlines() if re.match(r"\s+(bar\.sync|@?%?\w*\s*(st|ld)\.global)", line)]
            assert code[-1].startswith("bar.sync"), "all threads have written the part"
            assert re.search(r"bar\.sync", behind.split("ld.global")[0]), "all threads know"
            assert "ld.global.cg" not in before
            assert behind.count("ld.global.cg") >= (tiles.splits - 1) * tiles.block_m * tiles.block_n // (32 * tiles.num_warps * 4)
            assert "atom." not in behind
            assert not set(re.findall(r"bra\S*\s+(\S+);", behind)) & set(re.findall(r"^(\S+):", before, re.MULTILINE))


def test_sum_and_normalise(architecture):
    from esat_kernels.linear.triton_kernels import normalise_kernel, sum_kernel

    constants = {"ACTIVATION": "gelu", "SPLITS": 4, "BLOCK_M": triton_tiles.SUM_BLOCK_M, "BLOCK_N": triton_tiles.SUM_BLOCK_N}
    constants["DEPENDENT"] = False
    alone = {name: value for name, value in ALONE.items() if name in sum_kernel.arg_names}
    compiled(sum_kernel, architecture, {**constants, **NO_SQUARES, **alone}, triton_tiles.SUM_WARPS, dtype="fp32")
    compiled(sum_kernel, architecture, {**constants, **alone, **KEY_NORMS}, triton_tiles.SUM_WARPS, dtype="fp32")
    compiled(
        sum_kernel,
        architecture,
        {**constants, **NO_SQUARES, **IN_FRONT},
        triton_tiles.SUM_WARPS,
        dtype="fp32",
        types={"centred_ptr": "*bf16"},
    )
    constants = {"BLOCK_M": triton_tiles.NORMALISE_BLOCK_M, "BLOCK_K": triton_tiles.NORMALISE_BLOCK_K}
    types = {"x_ptr": "*fp32", "eps": "fp32"}
    compiled(normalise_kernel, architecture, constants, triton_tiles.NORMALISE_WARPS, types=types)
