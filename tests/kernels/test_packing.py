"""Weights as the CPU products read them: where each lies, how int8 rounds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from esat_kernels.linear.packing import PackedProduct, pack, packed_shape
from tests.kernels.defaults import DEFAULTS, set_default
from tests.kernels.layer_cases import unpacked


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int8])
def test_packing_puts_each_weight_where_the_header_says(dtype):
    weight = torch.arange(70 * 70, dtype=torch.float32).view(70, 70) % 127
    packed = pack(weight, dtype)
    lane, step = 4 // dtype.itemsize, 64 if dtype == torch.int8 else 32
    assert packed.shape == (3, -(-70 // step), 2, step // lane, 16, lane)
    assert packed.data_ptr() % 64 == 0
    for n, k in ((0, 0), (31, 33), (69, 69), (17, 1), (40, 65)):
        assert packed[n // 32, k // step, n % 32 // 16, k % step // lane, n % 16, k % lane] == weight[n, k]
    assert packed.float().sum() == weight.sum()  # the padding is zero


def test_int8_weights_are_rounded_to_half_a_step_of_each_output():
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(1)) * torch.logspace(-3, 3, 64)[:, None]
    weight[5] = 0
    product = PackedProduct.int8(weight, torch.zeros(64), 64)
    assert product.column_scale is not None
    assert product.column_sum is not None
    rounded = unpacked(product.weight)
    step = weight.abs().amax(dim=1) / 127
    assert ((rounded * product.column_scale[:, None] - weight).abs().amax(dim=1) <= 0.5001 * step).all()
    assert torch.equal(product.column_sum.double(), torch.stack([rounded[:, :64].sum(1), rounded[:, 64:].sum(1)]))


def test_int8_weights_whose_pairs_are_limited_lose_little():
    weight = torch.randn(64, 384, generator=torch.Generator().manual_seed(1)) * torch.logspace(-3, 3, 64)[:, None]
    weight[0], weight[1], weight[2] = 0, 1, weight[2].abs()

    def rounded(limit: int) -> tuple[Tensor, Tensor]:
        product = PackedProduct.int8(weight, torch.zeros(64), 384, limit)
        assert product.column_scale is not None
        assert product.column_sum is not None
        integers = unpacked(product.weight)
        assert torch.equal(product.column_sum[0].double(), integers.sum(1))
        return integers, (integers * product.column_scale[:, None] - weight).pow(2).sum(1)

    integers, error = rounded(128)
    assert (integers.view(64, -1, 2).sum(2).abs() <= 128).all()
    assert integers.abs().max() <= 127
    free, least = rounded(254)
    assert (free.view(64, -1, 2).sum(2).abs() > 128).any()
    step = weight.abs().amax(dim=1) / 63
    seven_bits = ((weight / step.clamp_min(1e-30)[:, None]).round() * step[:, None] - weight).pow(2).sum(1)
    assert error[3:].sum() < 0.5 * seven_bits[3:].sum()
    assert error[3:].sum() < 2 * least[3:].sum()
    assert error[0] == 0
    assert error[1] < 384 * (0.51 / 64) ** 2  # weights alike, all of which the limit concerns


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pack(torch.zeros(3), torch.float32), r"expected \[N, K\] for float32, bfloat16 or int8, got \(3,\) for torch.float32"),
        (lambda: pack(torch.zeros(3, 3), torch.float16), "for torch.float16"),
        (lambda: PackedProduct.int8(torch.zeros(32, 128), torch.zeros(32), 96), r"inputs in parts of 96, an even number, got \(32, 128\)"),
        (lambda: PackedProduct.int8(torch.zeros(32, 127), torch.zeros(32), 127), "parts of 127, an even number"),
    ],
)
def test_bad_calls(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_the_shape_of_a_packed_weight_is_the_padded_one() -> None:
    for dtype, shape in ((torch.float32, (96, 96)), (torch.bfloat16, (96, 96)), (torch.int8, (96, 128))):
        assert packed_shape(pack(torch.zeros(70, 70), dtype)) == shape


@pytest.mark.parametrize("default", DEFAULTS, ids=str)
def test_defaults_of_pytorch_do_not_change_what_kernels_read(default):
    weight, bias = torch.randn(64, 128), torch.randn(64)
    for make in (lambda: PackedProduct.of(weight, bias, torch.float32), lambda: PackedProduct.int8(weight, bias, 64, 128)):
        expected = make()
        with set_default(default):
            got = make()
        for tensor, other in zip((got.weight, *got.numbers()), (expected.weight, *expected.numbers()), strict=True):
            assert (tensor is None) == (other is None)
            if tensor is not None and other is not None:
                assert tensor.dtype == other.dtype
                assert torch.equal(tensor, other)
