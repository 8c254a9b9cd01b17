"""What the Triton products have to meet, on a GPU or in Triton's interpreter: a budget of rounding errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import esat_kernels
from esat_kernels import testing
from esat_kernels.linear import triton_tiles
from esat_kernels.linear.triton_tiles import Tiles
from tests.kernels.test_linear import operands
from tests.kernels.triton_device import BFLOAT16, DEVICE, FLOAT16, FLOAT32, INTERPRETED, device
from tests.kernels.triton_device import nan_in_fresh_memory as nan_in_fresh_memory  # a fixture of every test here


def within_budget(given: dict[str, Tensor], norm_eps: float | None = None, activation: str | None = None) -> None:
    """Against the formula in float64; the yardstick is the reference, which rounds the product's operands and the result alone."""
    tensors = {name: testing.move(tensor, DEVICE) for name, tensor in given.items()}
    out = esat_kernels.linear(**tensors, norm_eps=norm_eps, activation=activation, backend="triton").cpu()
    ideal = esat_kernels.linear(**given, norm_eps=norm_eps, activation=activation, backend="reference")
    x, weight = given["x"].double(), given["weight"].double()
    if norm_eps is not None:
        x = torch.nn.functional.layer_norm(x, x.shape[1:], eps=norm_eps)
    exact = torch.nn.functional.linear(x, weight, given["bias"].double() if "bias" in given else None)
    exact = {None: lambda t: t, "gelu": torch.nn.functional.gelu, "relu": torch.nn.functional.relu}[activation](exact)
    if "residual" in given:
        exact = exact + given["residual"].double()
    budget = testing.compare(out, ideal, exact)
    slack = 1e-5 * float(exact.abs().max())  # both sum the same rounded operands in float32, in another order
    assert out.dtype == ideal.dtype
    assert budget.max_error <= budget.max_allowed + slack, budget
    assert budget.mean_error <= budget.mean_allowed + slack, budget


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 63, 65])
def test_products_of_any_number_of_rows(rows):
    within_budget(operands(rows, 96, 72, BFLOAT16), 1e-6, "gelu")


@pytest.mark.parametrize("inner", [1, 33, 64, 200])
@pytest.mark.parametrize(("dtype", "stream"), [(BFLOAT16, FLOAT32), (BFLOAT16, BFLOAT16), (FLOAT16, FLOAT32), (FLOAT32, FLOAT32)])
def test_products_of_any_inner_dimension_and_dtype(inner, dtype, stream):
    within_budget(operands(18, inner, 40, dtype, stream), None if inner == 1 else 1e-6)
    within_budget(operands(18, inner, 40, dtype, stream), activation="relu")


@pytest.mark.parametrize(
    "tiles", triton_tiles.candidates(3072, BFLOAT16, BFLOAT16), ids=lambda tiles: "x".join(map(str, vars(tiles).values()))
)
def test_every_tile_of_a_frame_s_products(tiles, monkeypatch):
    """Two tiles each way, the second one ragged, and parts of the inner dimension that are not equally long."""
    monkeypatch.setattr(triton_tiles, "product_tiles", lambda *_: tiles)
    rows, inner, columns = tiles.block_m + 7, tiles.block_k * (2 * tiles.splits + 1), tiles.block_n + 9
    given = operands(rows, inner, columns, BFLOAT16, BFLOAT16)
    if tiles.splits % 2:
        within_budget(given, activation="gelu")
    else:
        within_budget({**given, "residual": given["residual"].float()})


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("columns", [40, 300])
def test_products_whose_inner_dimension_is_ragged(splits, columns, monkeypatch):
    tiles = Tiles(16, 256 if columns == 300 else 32, 32, splits, 4, 2)
    monkeypatch.setattr(triton_tiles, "product_tiles", lambda *_: tiles)
    for inner in (96, 100):
        within_budget(operands(33, inner, columns, BFLOAT16), 1e-6, "gelu")
        without = {name: tensor for name, tensor in operands(33, inner, columns, BFLOAT16).items() if name in ("x", "weight")}
        within_budget(without)


@pytest.mark.parametrize(("splits", "block_n"), [(1, 64), (1, 256), (3, 64)])
def test_a_product_leaves_the_norms_of_its_keys(splits, block_n, monkeypatch):
    tiles = Tiles(16, block_n, 32, splits, 4, 2)
    monkeypatch.setattr(triton_tiles, "product_tiles", lambda *_: tiles)
    for width, count in ((64, 3), (32, 2)):
        dim = width * count
        given = {name: t.to(DEVICE) for name, t in operands(33, 96, 3 * dim, BFLOAT16).items() if name != "residual"}
        out, norms = esat_kernels.linear_with_squares(**given, first=dim, width=width, groups=count, norm_eps=1e-6, backend="triton")
        assert torch.equal(out, esat_kernels.linear(**given, norm_eps=1e-6, backend="triton"))
        keys = out[:, dim : 2 * dim].double().unflatten(1, (count, width))
        torch.testing.assert_close(norms.double(), keys.square().sum(2), rtol=1e-6, atol=0)


def test_a_large_mean_does_not_cancel():
    given = operands(5, 300, 24)
    given["x"] = given["x"] / 60 + 3000
    within_budget({name: given[name] for name in ("x", "weight")}, 1e-6)


def normed_between(tiles, monkeypatch, stream: Tensor, columns: int, activation: str | None = None) -> None:
    """A product leaves `stream` [B, n, K], the next one multiplies its normalised rows: within the budget of rounding them."""
    monkeypatch.setattr(triton_tiles, "product_tiles", lambda *_: tiles)
    batch, count, inner = stream.shape
    generator = torch.Generator().manual_seed(columns)
    weight = (torch.randn(columns, inner, generator=generator) * inner**-0.5).bfloat16()
    bias = torch.randn(columns, generator=generator)
    x = torch.randn(batch, count, 32, generator=generator).bfloat16()
    before = (torch.randn(inner, 32, generator=generator) / 32).bfloat16()
    x, before, stream, weight, bias = device(x, before, stream, weight, bias)
    wide = torch.full((batch, count + 3, inner + 16), math.nan, device=DEVICE)
    left = wide[:, 3:, :inner]  # items lie apart, and so do rows
    centred = esat_kernels.centred_memory(left)
    esat_kernels.linear_into(left, x, before, residual=stream, leave=centred, backend="triton")
    assert torch.equal(left.flatten(0, 1), esat_kernels.linear(x.flatten(0, 1), before, residual=stream.flatten(0, 1), backend="triton"))
    assert wide[:, :3].isnan().all()
    assert wide[:, :, inner:].isnan().all()
    out = torch.empty(batch, count, columns, dtype=BFLOAT16, device=DEVICE)
    sums = esat_kernels.group_sums(weight)
    esat_kernels.linear_into(out, centred, weight, bias, group_sums=sums, norm_eps=1e-6, activation=activation, backend="triton")
    rows = left.flatten(0, 1).cpu()
    weight, bias = weight.cpu(), bias.cpu()
    ideal = esat_kernels.linear(rows, weight, bias, norm_eps=1e-6, activation=activation, dtype=BFLOAT16, backend="reference")
    exact = torch.nn.functional.layer_norm(rows.double(), (inner,), eps=1e-6) @ weight.double().T + bias.double()
    exact = torch.nn.functional.gelu(exact) if activation else exact
    budget = testing.compare(out.flatten(0, 1).cpu(), ideal, exact)
    assert budget.max_error <= budget.max_allowed, budget
    assert budget.mean_error <= budget.mean_allowed, budget


@pytest.mark.parametrize(("splits", "block_n", "inner"), [(1, 64, 96), (1, 256, 320), (3, 64, 384), (2, 128, 144)])
def test_a_norm_between_two_products(splits, block_n, inner, monkeypatch):
    stream = operands(2 * 19, inner, 8)["x"].view(2, 19, inner)
    normed_between(Tiles(16, block_n, 32, splits, 4, 2), monkeypatch, stream, 72, "gelu")


def test_a_large_mean_does_not_cancel_between_two_products(monkeypatch):
    stream = operands(20, 384, 8)["x"].view(1, 20, 384) / 60
    normed_between(Tiles(16, 64, 32, 1, 4, 2), monkeypatch, stream + 3000, 40)
    normed_between(Tiles(16, 64, 32, 1, 4, 2), monkeypatch, stream + torch.linspace(-50, 50, 384).round(), 40)


def test_a_residual_of_all_items_and_the_norms_of_keys_behind_a_norm(monkeypatch):
    monkeypatch.setattr(triton_tiles, "product_tiles", lambda *_: Tiles(16, 64, 32, 1, 4, 2))
    generator = torch.Generator().manual_seed(1)
    x, weight, added = (torch.randn(*shape, generator=generator) for shape in ((2, 9, 24), (64, 24), (9, 64)))
    x, weight, added = device(x.bfloat16(), weight.bfloat16(), added)
    stream = torch.empty(2, 9, 64, device=DEVICE)
    centred = esat_kernels.centred_memory(stream)
    esat_kernels.linear_into(stream, x, weight, residual=added.expand(2, -1, -1), leave=centred, backend="triton")
    alone = esat_kernels.linear(x.flatten(0, 1), weight, residual=added.repeat(2, 1), backend="triton")
    assert torch.equal(stream.flatten(0, 1), alone)
    qkv = torch.randn(96, 64, generator=generator).bfloat16().to(DEVICE)
    out, norms = torch.empty(2, 9, 96, dtype=BFLOAT16, device=DEVICE), torch.empty(18, 2, device=DEVICE)
    sums = esat_kernels.group_sums(qkv)
    esat_kernels.linear_into(out, centred, qkv, group_sums=sums, norm_eps=1e-6, squares=norms, first=32, width=16, backend="triton")
    keys = out.flatten(0, 1)[:, 32:64].double().unflatten(1, (2, 16))
    torch.testing.assert_close(norms.double(), keys.square().sum(2), rtol=1e-6, atol=0)


def test_what_is_no_number_stays_visible_behind_a_norm(monkeypatch):
    monkeypatch.setattr(triton_tiles, "product_tiles", lambda *_: Tiles(16, 64, 32, 1, 4, 2))
    stream = torch.randn(1, 4, 128)
    stream[0, 1, 70], stream[0, 2, 3] = math.nan, math.inf
    one, stream = device(torch.zeros(1, 4, 16).bfloat16(), stream)
    left = torch.empty_like(stream)
    centred = esat_kernels.centred_memory(left)
    esat_kernels.linear_into(
        left, one, torch.zeros(128, 16, dtype=BFLOAT16, device=DEVICE), residual=stream, leave=centred, backend="triton"
    )
    weight = torch.ones(16, 128, dtype=BFLOAT16, device=DEVICE)
    out = torch.empty(1, 4, 16, device=DEVICE)
    esat_kernels.linear_into(out, centred, weight, group_sums=esat_kernels.group_sums(weight), norm_eps=1e-6, backend="triton")
    assert out[0].isnan().all(1).tolist() == [False, True, True, False]


def test_rows_that_lie_apart():
    given = operands(20, 64, 48, BFLOAT16)
    wide = {name: torch.full((t.shape[0], t.shape[1] + 16), math.nan, dtype=t.dtype) for name, t in given.items() if name != "bias"}
    for name, tensor in wide.items():
        tensor[:, 8:-8] = given[name]
        given[name] = tensor[:, 8:-8]
    within_budget(given, 1e-6, "gelu")


def test_a_product_has_the_same_bits_every_time_and_for_each_row_alone():
    given = {name: t.to(DEVICE) for name, t in operands(33, 160, 40, BFLOAT16).items()}
    first = esat_kernels.linear(**given, norm_eps=1e-6, backend="triton")
    for _ in range(1 if INTERPRETED else 1000):
        assert torch.equal(esat_kernels.linear(**given, norm_eps=1e-6, backend="triton"), first)
