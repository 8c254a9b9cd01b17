"""What the eight-bit products have to meet, on a GPU or in Triton's interpreter: collected by test_triton_gpu.py and test_triton.py.

Operands are given in e4m3, so a product's only error is that of its sums. What it leaves is compared with float64: half a step of e4m3.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import esat_kernels
from esat_kernels import Scaled, testing
from esat_kernels.linear import fp8, reference_fp8
from esat_kernels.linear import triton_fp8 as linear
from esat_kernels.linear.triton_tiles import Tiles
from tests.kernels.triton_device import BFLOAT16, DEVICE, INTERPRETED
from tests.kernels.triton_device import nan_in_fresh_memory as nan_in_fresh_memory  # a fixture of every test here

E4M3 = fp8.E4M3
# Of the sum of magnitudes: float32's roundings, and on a GPU the about 14 bits that Hopper's matrix units keep of 128 products.
SUMS = 2.0**-20 if INTERPRETED else 2.0**-11
TILES = [Tiles(64, 128, 128, 1, 4, 3), Tiles(128, 128, 128, 1, 8, 3), Tiles(64, 128, 128, 2, 4, 3), Tiles(64, 128, 128, 3, 4, 3)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def stream(batch: int, count: int, columns: int) -> Tensor:
    """Rows with a mean, large channels, and groups of very different size."""
    x = normal(batch, count, columns) * 3 + 1
    x[..., ::17] *= 20
    return x * torch.logspace(-3, 2, columns // fp8.GROUP, 2.0).repeat_interleave(fp8.GROUP)


def left_of(values: Tensor, statistics: bool) -> Scaled:
    """What a product should leave of values [B, n, K], on the device."""
    memory = fp8.scaled_memory(values, values.shape[2], statistics)
    one = torch.eye(values.shape[2]).bfloat16()
    nothing = torch.zeros(*values.shape[:2], values.shape[2], dtype=BFLOAT16)
    args = (nothing, None, None, one, None, None, None, values, None, 0.0, None)
    reference_fp8.linear_fp8(*args, memory.rows, memory.scales, memory.statistics)
    return Scaled(*(None if part is None else part.to(DEVICE) for part in memory))


def wide(left: Scaled) -> Tensor:
    """rows x scales in float64 [B, n, K], on the CPU."""
    rows, scales = left.rows.cpu().double(), left.scales.cpu().double()
    return (rows.flatten(0, 1).unflatten(1, (-1, fp8.GROUP)) * scales.T.unsqueeze(2)).view(rows.shape)


def weight_of(outputs: int, inputs: int) -> tuple[fp8.ScaledWeight, Tensor]:
    """On the device, and its values in float64 on the CPU."""
    weight = fp8.scaled_weight(normal(outputs, inputs) * inputs**-0.5)
    exact = weight.values.double() * weight.scales.double().unsqueeze(1)
    return fp8.ScaledWeight(*(part.to(DEVICE) for part in weight)), exact


def assert_left(left: Scaled, values: Tensor, error: Tensor | float) -> None:
    """`left` is values [B, n, N] in e4m3, made of values that are right to `error`."""
    scales = left.scales.cpu().T.double().repeat_interleave(fp8.GROUP, 1).view(values.shape)
    step = torch.maximum(values.abs() * 2**-4, scales * 2**-10) * (1 + 1e-5)
    assert ((wide(left) - values).abs() <= step + 1.07 * error).all()
    largest = values.flatten(0, 1).unflatten(1, (-1, fp8.GROUP)).abs().amax(2)
    error = torch.as_tensor(error, dtype=torch.float64).expand(values.shape).flatten(0, 1).unflatten(1, (-1, fp8.GROUP)).amax(2)
    assert ((scales.flatten(0, 1)[:, :: fp8.GROUP] * 448 - largest).abs() <= largest * 1e-6 + error).all()


def with_tiles(monkeypatch, tiles: Tiles) -> None:
    monkeypatch.setattr(linear.tiling, "product_tiles", lambda *_: tiles)


@pytest.mark.parametrize("tiles", TILES, ids=str)
def test_a_product_of_scaled_rows(tiles, monkeypatch):
    """Bias, a residual whose items lie apart, and what the next product in bfloat16 reads."""
    with_tiles(monkeypatch, tiles)
    batch, count, inputs, outputs = 2, 37, 512, 256
    x, (weight, exact) = left_of(stream(batch, count, inputs), False), weight_of(outputs, inputs)
    bias, residual = normal(outputs), normal(batch, count + 3, outputs)[:, 3:]
    out = torch.empty(batch, count + 2, outputs, device=DEVICE)[:, :count]
    left = esat_kernels.centred_memory(out)
    given = [testing.move(tensor, DEVICE) for tensor in (bias, residual)]
    esat_kernels.linear_fp8(x, weight, given[0], residual=given[1], out=out, leave=left, backend="triton")
    expected = wide(x) @ exact.T + bias.double() + residual.double()
    limit = SUMS * (wide(x).abs() @ exact.abs().T + residual.double().abs() + 1)
    assert ((out.cpu().double() - expected).abs() <= limit).all()
    found = (left.rows.float().unflatten(2, (-1, 64)) + left.statistics[0].view(batch, count, -1, 1)).flatten(2)
    torch.testing.assert_close(found, out, rtol=2**-8, atol=2**-8 * float(out.abs().max()) / 8)
    mean = (left.statistics[0] + left.statistics[1]).view(batch, count, -1)
    torch.testing.assert_close(mean, out.unflatten(2, (-1, 64)).mean(3), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tiles", TILES, ids=str)
@pytest.mark.parametrize("mean", [0.0, 3000.0])
def test_a_normalised_product_leaves_its_activation(tiles, mean, monkeypatch):
    """LayerNorm by algebra, exact GELU, and eight bits of the result: within half a step of e4m3, whatever the rows' mean."""
    with_tiles(monkeypatch, tiles)
    batch, count, inputs, outputs = 1, 67, 384, 256
    tokens = stream(batch, count, inputs) + mean
    x, (weight, exact), bias = left_of(tokens, True), weight_of(outputs, inputs), normal(outputs)
    left = fp8.scaled_memory(x.rows, outputs, False)
    esat_kernels.linear_fp8(x, weight, bias.to(DEVICE), norm_eps=1e-6, activation="gelu", leave=left, backend="triton")
    origin = tokens.double().flatten(0, 1).unflatten(1, (-1, fp8.GROUP)).mean(2)  # as it was chosen, up to the last digits
    deviation = (tokens.double().var(2, correction=0) + 1e-6).sqrt().unsqueeze(2)
    sums = (weight.group_sums.cpu().double().sum(0) * weight.scales.cpu().double().unsqueeze(1))[:, : inputs // fp8.GROUP]
    shift = (origin - origin.mean(1, keepdim=True)).view(batch, count, -1)
    expected = functional.gelu((wide(x) @ exact.T + shift @ sums.T) / deviation + bias.double())
    digits = 2.0**-22 * abs(mean) * exact.abs().sum(1)
    limit = 1.2 * (SUMS * (wide(x).abs() @ exact.abs().T) + 2.0**-14 * (shift.abs() @ sums.abs().T) + digits) / deviation + 1e-6
    assert_left(left, expected, limit)


@pytest.mark.parametrize("tiles", [Tiles(16, 128, 64, 1, 4, 3), Tiles(64, 128, 64, 2, 4, 3), Tiles(128, 128, 64, 1, 8, 3)], ids=str)
def test_a_product_in_bfloat16_leaves_a_stream_in_eight_bits(tiles, monkeypatch):
    with_tiles(monkeypatch, tiles)
    batch, count, inputs, outputs = 2, 21, 128, 256
    x, weight = normal(batch, count + 1, inputs).bfloat16()[:, 1:], (normal(outputs, inputs) * inputs**-0.5).bfloat16()
    residual = stream(batch, count, outputs)
    out = torch.empty(batch, count, outputs, device=DEVICE)
    left = fp8.scaled_memory(out, outputs, True)
    given = [testing.move(tensor, DEVICE) for tensor in (x, weight, residual)]
    esat_kernels.linear_fp8(given[0], given[1], residual=given[2], out=out, leave=left, backend="triton")
    expected = x.double() @ weight.double().T + residual.double()
    torch.testing.assert_close(out.cpu().double(), expected, rtol=1e-6, atol=1e-4)
    values = out.cpu().double().flatten(0, 1).unflatten(1, (-1, fp8.GROUP))
    origin, rest, squares = left.statistics.cpu().double()
    torch.testing.assert_close(origin + rest, values.mean(2), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(squares, values.var(2, correction=0) * fp8.GROUP, rtol=1e-4, atol=1e-6)
    assert_left(left, (values - origin.unsqueeze(2)).view(batch, count, outputs), 1e-5)


def test_three_products_are_no_further_from_float64_than_the_reference():
    """Projection, both halves of an MLP, with the tiles of their shapes."""
    batch, count, dim, hidden = 1, 70, 256, 512
    attended, tokens = normal(batch, count, dim), stream(batch, count, dim)
    projection = normal(dim, dim).bfloat16() * dim**-0.5
    first, second = normal(hidden, dim) * dim**-0.5, normal(dim, hidden) * hidden**-0.5
    given = [testing.move(tensor, DEVICE) for tensor in (attended.bfloat16(), tokens, projection)]
    weights = [fp8.ScaledWeight(*(part.to(DEVICE) for part in fp8.scaled_weight(weight))) for weight in (first, second)]
    middle = attended.bfloat16().double() @ projection.double().T + tokens.double()
    normed = functional.layer_norm(middle, (dim,), eps=1e-6)
    exact = functional.gelu(normed @ first.double().T) @ second.double().T + middle
    errors = []
    for backend in ("triton", "reference"):
        out = torch.empty(batch, count, dim, device=DEVICE)
        left, between = fp8.scaled_memory(out, dim, True), fp8.scaled_memory(out, hidden, False)
        esat_kernels.linear_fp8(given[0], given[2], residual=given[1], out=out, leave=left, backend=backend)
        esat_kernels.linear_fp8(left, weights[0], norm_eps=1e-6, activation="gelu", leave=between, backend=backend)
        last = torch.empty_like(out)
        esat_kernels.linear_fp8(between, weights[1], residual=out, out=last, backend=backend)
        errors.append((last.cpu().double() - exact).abs().mean())
    assert errors[0] <= 1.02 * errors[1]
    assert errors[1] <= 0.06 * (exact - middle).abs().mean()  # four operands, each rounded by 2.6 percent (root mean square)


def test_a_group_of_zeros_and_a_nan():
    """Zeros stay zeros; a NaN makes its row NaN and no other."""
    values = normal(1, 5, 256)
    values[0, 1, :128], values[0, 3, 7] = 0.0, float("nan")
    x, weight = torch.zeros(1, 5, 128, dtype=BFLOAT16, device=DEVICE), torch.zeros(256, 128, dtype=BFLOAT16, device=DEVICE)
    left = fp8.scaled_memory(x, 256, False)
    esat_kernels.linear_fp8(x, weight, residual=values.to(DEVICE), leave=left, backend="triton")
    found = wide(left)
    assert (found[0, 1, :128] == 0).all()
    assert found.isnan().sum() == 1
    out = torch.empty(1, 5, 128, device=DEVICE)
    esat_kernels.linear_fp8(left, weight_of(128, 256)[0], out=out, backend="triton")
    assert out.isnan().all(2).tolist() == [[False, False, False, True, False]]
    assert out.isnan().sum() == 128


def test_results_in_bfloat16():
    x, (weight, exact) = left_of(normal(1, 9, 128), False), weight_of(128, 128)
    out = torch.empty(1, 9, 128, dtype=BFLOAT16, device=DEVICE)
    esat_kernels.linear_fp8(x, weight, activation="relu", out=out, backend="triton")
    torch.testing.assert_close(out.cpu().double(), (wide(x) @ exact.T).relu(), rtol=2**-8, atol=1e-3)
