"""Shared memory of devices that have less than those the Triton kernels are made for: they get lower tiles."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest
import torch

from esat_kernels import _device, _triton
from esat_kernels.attention import triton_tiles as attention_tiles
from esat_kernels.linear import triton_tiles as linear_tiles
from tests.kernels import cubin
from tests.require import require

BFLOAT16, FLOAT32 = torch.bfloat16, torch.float32
DEVICES = {"A100": 163 * 1024, "RTX 4090": 99 * 1024, "H100": 227 * 1024}  # bytes that a block can have


@pytest.fixture
def device(request, monkeypatch):
    """PyTorch sees this device."""
    properties = SimpleNamespace(name=request.param, major=8, minor=9, shared_memory_per_block_optin=DEVICES[request.param])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device=None: properties)
    _triton.shared_memory.cache_clear()
    yield DEVICES[request.param]
    _triton.shared_memory.cache_clear()


def test_a_pytorch_that_does_not_tell_gets_the_least(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device=None: SimpleNamespace(name="old", major=8, minor=0))
    assert _device.shared_memory() == 99 * 1024


@pytest.mark.parametrize("device", DEVICES, indirect=True)
@pytest.mark.parametrize(("x", "weight"), [(BFLOAT16, BFLOAT16), (FLOAT32, BFLOAT16), (FLOAT32, FLOAT32)])
def test_tiles_of_products_fit(device, x, weight):
    assert _triton.shared_memory(torch.device("cuda")) == device
    for rows, inner, columns in ((720, 768, 3072), (199, 3072, 768), (16 * 720, 768, 2304), (1, 33, 1)):
        tiles = linear_tiles.product_tiles(rows, inner, columns, x, weight, 128, "", device)
        assert tiles in linear_tiles.candidates(inner, x, weight, device)
        assert tiles.shared_bytes(x.itemsize, weight.itemsize) < device
    tallest = linear_tiles.candidates(768, BFLOAT16, BFLOAT16, device)[0]
    assert (tallest.block_m, tallest.block_n) == ((128, 256) if device > 150 * 1024 else (128, 128))


@pytest.mark.parametrize("device", DEVICES, indirect=True)
@pytest.mark.parametrize("head_dim", [32, 64, 72, 96, 128])
def test_tiles_of_attention_fit(device, head_dim):
    for dtype in (BFLOAT16, FLOAT32):
        for tokens, slices in ((720, 12), (1, 1), (720, 192)):
            tiles = attention_tiles.forward_tiles(tokens, slices, head_dim, dtype, 128, "", device)
            held = (tiles.block_m + 2 * tiles.num_stages * tiles.block_n) * attention_tiles.padded(head_dim) * dtype.itemsize
            assert held < device
    if head_dim <= 64:  # those that a model uses are the same everywhere
        assert attention_tiles.forward_candidates(head_dim, BFLOAT16, device) == attention_tiles.forward_candidates(head_dim, BFLOAT16)


@pytest.mark.cubin
def test_what_is_compiled_for_a_small_device_takes_no_more_than_was_estimated():
    """The largest tiles that it may take, for sm_89."""
    require("triton", None if importlib.util.find_spec("triton") else "Triton is not installed")
    from esat_kernels.attention.triton_forward import forward_kernel
    from esat_kernels.linear.triton_kernels import product_kernel

    small = DEVICES["RTX 4090"]
    tiles = attention_tiles.forward_candidates(128, BFLOAT16, small)[0]
    constants = {"HEAD_DIM": 128, "BLOCK_D": 128, "BLOCK_M": tiles.block_m, "BLOCK_N": tiles.block_n, "ATTRACT": True, "REPEL": True}
    found = cubin.compile_triton(forward_kernel, 89, "bf16", constants, tiles.num_warps, tiles.num_stages)
    assert 0 < found.shared <= attention_tiles.forward_shared_bytes(tiles, 128, BFLOAT16) <= small

    product = linear_tiles.candidates(768, BFLOAT16, BFLOAT16, small)[0]
    constants = {"ACTIVATION": "gelu", "SPLITS": 1, "WHOLE_K": True, "squares_ptr": None, "squares_first": 0, "WIDTH": 1, "GROUPS": 0}
    constants |= {"parts_ptr": None, "counters_ptr": None}
    constants |= {"BLOCK_M": product.block_m, "BLOCK_N": product.block_n, "BLOCK_K": product.block_k, "DEPENDENT": False, "PREFETCH": False}
    types = {"x_ptr": "*bf16", **dict.fromkeys(("residual_ptr", "bias_ptr", "norm_ptr", "left_ptr"), "*fp32"), "eps": "fp32"}
    normed, leaving = dict.fromkeys(("norm_ptr", "group_sums_ptr")), dict.fromkeys(("centred_ptr", "left_ptr"))
    for around in (
        {**normed, **leaving, "NORM_WIDTH": 1, "NORM_GROUPS": 1, "LEFT_WIDTH": 1, "out_ptr": "*bf16"},
        {**leaving, "NORM_WIDTH": 64, "NORM_GROUPS": 16, "LEFT_WIDTH": 1, "residual_ptr": None, "out_ptr": "*bf16"},
        {**normed, "NORM_WIDTH": 1, "NORM_GROUPS": 1, "LEFT_WIDTH": 64, "out_ptr": "*fp32"},
    ):
        out = around.pop("out_ptr")
        given = {**types, "out_ptr": str(out)}
        found = cubin.compile_triton(product_kernel, 89, "bf16", constants | around, product.num_warps, product.num_stages, given)
        assert 0 < found.shared <= product.shared_bytes(2, 2) <= small
