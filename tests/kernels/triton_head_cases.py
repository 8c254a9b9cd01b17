"""What the Triton kernels of the head have to meet, on a GPU or in Triton's interpreter."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import esat_kernels
from esat_kernels.head import triton as head
from esat_kernels.head import triton_tiles as head_tiles
from tests.kernels.triton_device import BFLOAT16, DEVICE, FLOAT16, FLOAT32, device
from tests.kernels.triton_device import nan_in_fresh_memory as nan_in_fresh_memory  # a fixture of every test here


@pytest.mark.parametrize(("count", "length", "channels", "dtype"), [(3, 3, 5, FLOAT32), (27, 36, 96, BFLOAT16), (300, 301, 40, FLOAT16)])
def test_the_head_s_features(count, length, channels, dtype):
    generator = torch.Generator().manual_seed(count)
    tokens = torch.randn(2, count, channels, generator=generator) * 3 + 50
    gain, bias = torch.randn(2, channels, generator=generator)
    kept = torch.stack([torch.randperm(length, generator=generator)[:count].sort().values for _ in range(2)])
    for places in (kept, *([None] if count == length else [])):
        results = []
        for backend in ("triton", "reference"):
            moved = [None if tensor is None else tensor.to(DEVICE) for tensor in (tokens, gain, bias, places)]
            results.append(esat_kernels.head_features(*moved[:3], 1e-6, moved[3], length, dtype, backend=backend))
        torch.testing.assert_close(*results, rtol=2 ** -(20 if dtype == FLOAT32 else 7), atol=1e-4)
        assert torch.equal(results[0] == 0, results[1] == 0)


def convolution_operands(batch: int, side: int, groups: int, inputs: int, outputs: int, dtype: torch.dtype) -> list[Tensor]:
    """x [B, side * side, groups * inputs], weight [groups * outputs, 3, 3, inputs] and bias on the device."""
    generator = torch.Generator().manual_seed(side)
    x = torch.randn(batch, side * side, groups * inputs, generator=generator)
    weight = torch.randn(groups * outputs, 3, 3, inputs, generator=generator) * (9 * inputs) ** -0.5
    return device(*(tensor.to(dtype) for tensor in (x, weight, torch.randn(groups * outputs, generator=generator))))


@pytest.mark.parametrize(
    ("side", "groups", "inputs", "outputs", "dtype"),
    [(1, 1, 3, 5, FLOAT32), (5, 3, 20, 70, BFLOAT16), (7, 3, 16, 9, FLOAT16), (6, 1, 96, 130, BFLOAT16), (2, 3, 64, 16, BFLOAT16)],
)
def test_the_head_s_convolutions(side, groups, inputs, outputs, dtype):
    x, weight, bias = convolution_operands(2, side, groups, inputs, outputs, dtype)
    x[0, 0, 0] = math.nan
    ours, expected = (esat_kernels.head_convolution(x, weight, bias, groups, side, backend=backend) for backend in ("triton", "reference"))
    wide = [tensor.float() for tensor in (x, weight, bias)]
    exact = esat_kernels.head_convolution(*wide, groups, side, backend="reference").to(dtype)
    assert ours.dtype == expected.dtype == dtype
    torch.testing.assert_close(ours, exact, rtol=2**-7 if dtype == BFLOAT16 else 2**-10, atol=1e-5, equal_nan=True)
    assert ours.isnan().any()


@pytest.mark.parametrize("tiles", head_tiles.candidates(64, 64, BFLOAT16, False), ids=str)
def test_every_tile_of_the_head_s_convolutions(tiles, monkeypatch):
    monkeypatch.setattr(head, "convolution_tiles", lambda *_, **__: tiles)
    operands = convolution_operands(1, 9, 1, 2 * tiles.block_k, tiles.block_n + 8, BFLOAT16)
    ours = esat_kernels.head_convolution(*operands, 1, 9, backend="triton")
    exact = esat_kernels.head_convolution(*(t.float() for t in operands), 1, 9, backend="reference").bfloat16()
    torch.testing.assert_close(ours, exact, rtol=2**-7, atol=1e-5)


@pytest.mark.parametrize(("side", "inputs", "outputs", "dtype"), [(5, 20, 10, FLOAT32), (7, 64, 32, BFLOAT16), (4, 16, 64, FLOAT16)])
def test_the_head_s_maps_behind_its_last_convolution(side, inputs, outputs, dtype):
    """The channels between the two are rounded as where they are stored."""
    x, weight, bias = convolution_operands(2, side, 3, inputs, outputs, dtype)
    rows = torch.tensor([0, 1, 1, 2, 2]).repeat_interleave(outputs).view(5, outputs)
    own = torch.zeros(5, 3, outputs).scatter(1, rows[:, None], torch.randn(5, 1, outputs)).flatten(1)
    own, last_bias = device(own, torch.randn(5))
    found = esat_kernels.head_convolution_with_maps(x, weight, bias, own, last_bias, side, backend="triton")
    hidden = esat_kernels.head_convolution(x, weight, bias, 3, side, backend="triton")
    expected = esat_kernels.head_maps(hidden, own, last_bias, side, backend="reference")
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4, equal_nan=True)
        assert ours.shape == theirs.shape
    x[1, 3, 2 * inputs] = math.nan  # of the last branch alone
    score, size, offset = esat_kernels.head_convolution_with_maps(x, weight, bias, own, last_bias, side, backend="triton")
    assert size.isnan().any()
    assert not score.isnan().any()
    assert not offset.isnan().any()


@pytest.mark.parametrize(("side", "channels", "dtype"), [(1, 3, FLOAT32), (7, 96, BFLOAT16), (6, 6, FLOAT16)])
def test_the_head_s_maps(side, channels, dtype):
    generator = torch.Generator().manual_seed(side)
    hidden = torch.randn(2, side * side, channels, generator=generator).to(dtype)
    hidden[1, 0] = math.nan
    tensors = device(hidden, torch.randn(5, channels, generator=generator) * 4, torch.randn(5, generator=generator))
    results = [esat_kernels.head_maps(*tensors, side, backend=backend) for backend in ("triton", "reference")]
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-4, equal_nan=True)
