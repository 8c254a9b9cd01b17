"""Products whose parts meet in one launch, on a GPU or in Triton's interpreter: whichever program is last, the sum is the same to the last bit."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import esat_kernels
from esat_kernels.linear import triton as linear
from esat_kernels.linear import triton_tiles
from esat_kernels.linear.triton_tiles import Tiles
from tests.kernels.test_linear import operands
from tests.kernels.triton_device import BFLOAT16, DEVICE, FLOAT32, INTERPRETED, device
from tests.kernels.triton_device import nan_in_fresh_memory as nan_in_fresh_memory  # a fixture of every test here
from tests.kernels.triton_product_cases import normed_between, within_budget

JOINED = [tiles for tiles in triton_tiles.candidates(3072, BFLOAT16, BFLOAT16) if tiles.joined]
needs_order = pytest.mark.skipif(not INTERPRETED, reason="a GPU has its own order of programs")


@contextlib.contextmanager
def programs_in_order(order: list[tuple[int, int]]) -> Iterator[None]:
    """The interpreter runs programs one after another, each to its end: now the n-th one is order[n]. A program that waited for a later one would
    never end.
    """
    from triton.runtime.interpreter import InterpreterBuilder

    places = iter(order)
    with pytest.MonkeyPatch.context() as patch:
        usual = InterpreterBuilder.set_grid_idx
        patch.setattr(InterpreterBuilder, "set_grid_idx", lambda self, *_: usual(self, *next(places), 0))
        yield
    assert next(places, None) is None


def orders(tiles: int, splits: int, count: int) -> list[list[tuple[int, int]]]:
    """Every part is last at some tile."""
    found = []
    for seed in range(count):
        order = [(tile, part) for tile in range(tiles) for part in range(splits)]
        random.Random(seed).shuffle(order)
        found.append(order)
    assert {dict(order)[tile] for order in found for tile in range(tiles)} == set(range(splits))
    return found


def cancelling(rows: int, columns: int, splits: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight and their product where the parts are added in their order: two large parts cancel, which leaves a small third one all its digits.
    In any other order it loses some.
    """
    small = torch.arange(1, columns + 1)[:, None] / 1024
    parts = [torch.full((columns, 64), 2.0**18), torch.full((columns, 64), -(2.0**18)), small.expand(-1, 64)]
    weight = torch.cat(parts[:splits], 1).bfloat16()
    expected = 64 * weight[:, 128:129].float().T if splits == 3 else torch.zeros(1, columns)
    return *device(torch.ones(rows, 64 * splits).bfloat16(), weight), expected.expand(rows, -1).to(DEVICE)


@needs_order
@pytest.mark.parametrize("splits", [2, 3])
def test_whoever_is_last_adds_the_parts_in_their_order(splits):
    tiles = Tiles(16, 16, 64, splits, 4, 2, joined=True)
    x, weight, expected = cancelling(30, 40, splits)
    counters = esat_kernels.meeting_counters(torch.device(DEVICE))
    for order in orders(6, splits, 8):
        with programs_in_order(order):
            out = linear.run(x, weight, None, None, None, FLOAT32, tiles, counters)
        assert torch.equal(out, expected)
        assert not counters.any()


@needs_order
def test_the_test_sees_an_order_of_arrival():
    """Added as they come, the parts of `cancelling` do not give what is expected of them."""
    x, weight, expected = cancelling(16, 16, 3)
    parts = [(x[:, first : first + 64].float() @ weight[:, first : first + 64].float().T) for first in (0, 64, 128)]
    assert torch.equal((parts[0] + parts[1]) + parts[2], expected)
    assert not torch.equal((parts[2] + parts[0]) + parts[1], expected)
    assert not torch.equal((parts[1] + parts[2]) + parts[0], expected)


@pytest.mark.parametrize("tiles", JOINED, ids=str)
def test_the_same_bits_as_with_a_kernel_that_sums(tiles):
    """At the tiles of a frame, two of them each way, with all that may stand behind a product; the counters serve every launch."""
    rows, inner, columns = tiles.block_m + 7, tiles.block_k * (2 * tiles.splits + 1), tiles.block_n + 64
    x, weight, bias, residual = device(
        *(operands(rows, inner, columns, BFLOAT16, BFLOAT16)[name] for name in ("x", "weight", "bias", "residual"))
    )
    counters = esat_kernels.meeting_counters(x.device)
    results = []
    for chosen in (dataclasses.replace(tiles, joined=False), *[tiles] * (2 if INTERPRETED else 1000)):
        out = torch.empty(1, rows, columns, device=DEVICE)
        squares = torch.empty(rows, 2, device=DEVICE)
        centred = esat_kernels.centred_memory(out)
        work = linear.Work(
            x[None],
            weight,
            out,
            bias,
            "gelu",
            residual[None].float(),
            squares,
            64,
            64,
            centred=centred.rows,
            left=centred.statistics,
            counters=counters,
        )
        linear.launch(work, chosen)
        results.append((out, squares, *centred))
        assert not counters.any()
        assert all(torch.equal(*pair) for pair in zip(results[0], results.pop() if len(results) > 1 else results[0], strict=True))


@pytest.mark.parametrize("counters", [None, 1])
def test_too_few_counters_are_replaced(counters):
    given = device(*(operands(40, 192, 40, BFLOAT16, BFLOAT16)[name] for name in ("x", "weight")))
    tiles = Tiles(16, 16, 64, 3, 4, 2, joined=True)
    few = None if counters is None else torch.zeros(counters, dtype=torch.int32, device=DEVICE)
    out = linear.run(*given, None, None, None, FLOAT32, tiles, few)
    assert torch.equal(out, linear.run(*given, None, None, None, FLOAT32, dataclasses.replace(tiles, joined=False)))
    assert few is None or not few.any()


def test_parts_meet_only_where_each_tile_has_a_counter():
    """To make others takes the launch that it would save."""
    shape, types = (720, 3072, 768), (BFLOAT16, BFLOAT16, 132)
    tiles = triton_tiles.product_tiles(*shape, *types)
    assert tiles.joined
    needed = tiles.of(720, 768)
    assert needed == -(-720 // tiles.block_m) * (768 // tiles.block_n)
    chosen = {counters: triton_tiles.product_tiles(*shape, *types, counters=counters) for counters in (needed, needed - 1, 0)}
    assert chosen[needed] == tiles
    assert chosen[needed - 1].of(720, 768) < needed or not chosen[needed - 1].joined
    assert not chosen[0].joined


@pytest.mark.parametrize("joined", [True, False])
def test_a_product_has_as_many_launches_as_its_counters_allow(joined, monkeypatch):
    x, weight = (operands(720, 3072, 768, BFLOAT16, BFLOAT16)[name] for name in ("x", "weight"))
    monkeypatch.setattr(linear._triton, "multiprocessors", lambda device: 132)
    chosen = []
    monkeypatch.setattr(linear, "launch", lambda work, tiles: chosen.append((tiles, work.counters)))
    counters = esat_kernels.meeting_counters(x.device) if joined else None
    linear.linear_into(x.new_empty(1, 720, 768), x[None], weight, None, None, None, None, None, 0.0, None, 0, 1, None, None, counters)
    assert [tiles.joined for tiles, _ in chosen] == [joined]


@pytest.mark.parametrize("rows", [720, 427])
def test_the_second_product_of_a_frame_s_mlp(rows, monkeypatch):
    """With the tiles of a device with 132 multiprocessors."""
    tiles = triton_tiles.product_tiles(rows, 3072, 768, BFLOAT16, BFLOAT16, 132)
    assert tiles.joined
    monkeypatch.setattr(triton_tiles, "product_tiles", lambda *_: tiles)
    given = operands(rows, 3072, 768, BFLOAT16, BFLOAT16)
    within_budget({**given, "residual": given["residual"].float()})


@pytest.mark.parametrize(("splits", "inner"), [(3, 384), (2, 144)])
def test_a_norm_between_two_products_whose_parts_meet(splits, inner, monkeypatch):
    stream = operands(2 * 19, inner, 8)["x"].view(2, 19, inner)
    normed_between(Tiles(64, 128, 32, splits, 4, 2, joined=True), monkeypatch, stream, 72, "gelu")
