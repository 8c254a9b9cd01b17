"""What the Triton kernels around attention have to meet, on a GPU or in Triton's interpreter: the references' bits, products within a budget."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import esat_kernels
from esat_kernels import testing
from esat_kernels.crop import triton as crop
from esat_kernels.decode import triton as decode
from esat_kernels.elimination import triton as elimination
from esat_kernels.head import triton as head
from esat_kernels.head import triton_tiles as head_tiles
from esat_kernels.linear import triton as linear
from esat_kernels.linear import triton_tiles
from esat_kernels.linear.triton_tiles import Tiles
from tests.kernels.nv12_frames import buffer_of, nv12_of
from tests.kernels.test_advance import state
from tests.kernels.test_linear import operands
from tests.kernels.test_regions import boxes_in, frame_of
from tests.kernels.triton_cases import BFLOAT16, DEVICE, FLOAT16, FLOAT32, INTERPRETED
from tests.kernels.triton_cases import nan_in_fresh_memory as nan_in_fresh_memory  # a fixture of every test here


def device(*tensors: Tensor) -> list[Tensor]:
    return [testing.move(tensor, DEVICE) for tensor in tensors]


def equal(result: Tensor, expected: Tensor) -> bool:
    """Same bits, NaN at the same places."""
    return result.dtype == expected.dtype and torch.equal(result.nan_to_num(nan=-7e7), expected.nan_to_num(nan=-7e7))


def same_crops(height: int, width: int, boxes: list, factor: float, size: int, dtype: torch.dtype, bgr: bool = True) -> None:
    frame, frame_size = torch.from_numpy(frame_of(height, width)).flatten(), torch.tensor([height, width], dtype=torch.int32)
    tensors = device(frame, frame_size, torch.tensor(boxes, dtype=torch.float64))
    outs = [torch.full((len(boxes), (size // 16) ** 2, 800), 7.0, dtype=dtype, device=DEVICE) for _ in range(2)]
    regions = [
        esat_kernels.crop_regions(*tensors, factor, size, out[:, :, 16:784], bgr=bgr, backend=backend)
        for out, backend in zip(outs, ("triton", "reference"), strict=True)
    ]
    assert equal(*regions)
    assert equal(*outs)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (33, 1), (2, 3), (240, 320), (1080, 1920)])
def test_crops_of_frames_of_any_size(height, width):
    same_crops(height, width, boxes_in(height, width), 4.0, 16, FLOAT32)


@pytest.mark.parametrize(("dtype", "bgr", "factor"), [(BFLOAT16, True, 4.1), (FLOAT16, False, 0.7)])
def test_crops_of_several_patches(dtype, bgr, factor):
    far = [(math.nan, 1, 5, 5), (1, 1, -3, -3), (1, 1, 1e300, 1e300), (1e300, 1, 5, 5), (-1e18, -1e18, 5, 5), (1e9, 1e9, 1e8, 1e8)]
    same_crops(60, 81, boxes_in(60, 81)[:2], factor, 48, dtype, bgr)
    same_crops(60, 81, far, factor, 16, dtype, bgr)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (33, 1), (60, 81)])
@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
def test_crops_of_two_planes(height, width, matrix):
    buffer, frame_size = buffer_of(nv12_of(height, width, matrix)), torch.tensor([height, width], dtype=torch.int32)
    tensors = device(buffer, frame_size, torch.tensor(boxes_in(height, width), dtype=torch.float64))
    outs = [torch.empty(tensors[2].shape[0], 4, 768, device=DEVICE) for _ in range(2)]
    for out, backend in zip(outs, ("triton", "reference"), strict=True):
        esat_kernels.crop_regions(*tensors, 4.0, 32, out, backend=backend, matrix=matrix)
    assert equal(*outs)


@pytest.mark.parametrize("matrix", [None, "bt601"])
def test_a_crop_reads_nothing_behind_a_buffer_that_is_too_short(matrix):
    frame = torch.full((300,), 255, dtype=torch.uint8, device=DEVICE)[:150]
    box, frame_size = device(torch.tensor([(0.0, 0.0, 8.0, 8.0)]).double(), torch.tensor([10, 10], dtype=torch.int32))
    outs = [torch.empty(1, 1, 768, device=DEVICE) for _ in range(2)]
    for out, backend in zip(outs, ("triton", "reference"), strict=True):
        esat_kernels.crop_regions(frame, frame_size, box, 1.0, 16, out, backend=backend, matrix=matrix)
    assert torch.equal(*outs)


@pytest.mark.parametrize("side", [1, 7, 16, 24])
@pytest.mark.parametrize("frame_size", [(120, 160), (1, 1), (2160, 3840)])
def test_the_next_boxes(side, frame_size):
    maps, regions, boxes = state(3, side, side)
    tensors, boxes = device(*maps, regions), boxes.to(DEVICE)
    expected_boxes, size = boxes.clone(), torch.tensor(frame_size, dtype=torch.int32, device=DEVICE)
    expected = esat_kernels.advance_boxes(*tensors, expected_boxes, size, backend="reference")
    assert equal(esat_kernels.advance_boxes(*tensors, boxes, size, backend="triton"), expected)
    assert equal(boxes, expected_boxes)


@pytest.mark.parametrize(("side", "channels", "dtype"), [(1, 5, FLOAT32), (7, 300, BFLOAT16), (24, 64, FLOAT16)])
def test_the_next_boxes_and_the_features_around_them(side, channels, dtype):
    maps, regions, boxes = state(3, side, side)
    for place, cell in enumerate((0, side * side - 1, side)):  # corners, and a border
        maps[0][place, 0].view(-1)[min(cell, side * side - 1)] = 50.0
    features = torch.randn(3, side * side, channels, generator=torch.Generator().manual_seed(side)).to(dtype)
    *tensors, features = device(*maps, regions, features)
    size, boxes = torch.tensor([120, 160], dtype=torch.int32, device=DEVICE), boxes.to(DEVICE)
    results = [
        esat_kernels.advance_boxes_with_features(*tensors, boxes.clone(), size, features, backend=backend)
        for backend in ("triton", "reference")
    ]
    assert all(equal(*pair) for pair in zip(*results, strict=True))


@pytest.mark.parametrize("values", [(math.nan,), (-math.inf,), (math.inf, math.nan), (math.inf, math.inf), (0.5, 0.5)])
def test_the_next_boxes_after_special_values(values):
    maps, regions, boxes = state(3, 8)
    maps[0][1] = -math.inf if values == (-math.inf,) else -maps[0][1]
    for cell, value in zip((17, 40), values, strict=False):
        maps[0][1, 0].view(-1)[cell] = value
    maps[1][0], regions[2] = math.nan, math.nan
    maps = [m.bfloat16().mT.contiguous().mT for m in maps[:3]] + [maps[3]]
    tensors, boxes = device(*maps, regions), boxes.to(DEVICE)
    size = torch.tensor([120, 160], dtype=torch.int32, device=DEVICE)
    expected = esat_kernels.advance_boxes(*tensors, boxes.clone(), size, backend="reference")
    assert equal(esat_kernels.advance_boxes(*tensors, boxes, size, backend="triton"), expected)


@pytest.mark.parametrize(("n", "keep"), [(576, 404), (404, 283), (283, 199), (256, 180), (1, 1), (2, 1), (7, 7), (33, 1), (4096, 4095)])
@pytest.mark.parametrize("levels", [2, 0])
def test_selection(n, keep, levels):
    scores = torch.randn(2, n, generator=torch.Generator().manual_seed(n)).to(DEVICE)
    if levels:  # many equal scores
        scores = (scores * levels).round() / levels
    first = esat_kernels.select_tokens(scores, keep, backend="triton")
    assert torch.equal(first, esat_kernels.select_tokens(scores, keep, backend="reference"))
    for _ in range(0 if INTERPRETED else 1000):
        assert torch.equal(esat_kernels.select_tokens(scores, keep, backend="triton"), first)


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16])
def test_selection_of_special_values(dtype):
    row = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-38, -1e-38, -0.0, 0.0, -math.nan, 3e38, -3e38]
    scores = torch.tensor([row, row[::-1]], dtype=dtype, device=DEVICE).mT.contiguous().mT
    for keep in range(1, len(row) + 1):
        expected = esat_kernels.select_tokens(scores, keep, backend="reference")
        assert torch.equal(esat_kernels.select_tokens(scores, keep, backend="triton"), expected)


@pytest.mark.parametrize(
    ("dtype", "search", "count", "channels"),
    [(FLOAT32, 30, 27, 5), (BFLOAT16, 20, 11, 300), (torch.float64, 20, 11, 1), (torch.uint8, 20, 11, 64)],
)
def test_gather_and_scatter(dtype, search, count, channels, monkeypatch):
    monkeypatch.setattr(elimination, "BLOCK_N", 16)  # so that one search takes more than one step
    generator = torch.Generator().manual_seed(channels)
    tokens = (torch.rand(2, 9 + search, channels, generator=generator) * 100).to(dtype).to(DEVICE)
    kept = torch.stack([torch.randperm(search, generator=generator)[:count] for _ in range(2)]).to(DEVICE)
    for view in (tokens, tokens.mT.contiguous().mT, tokens[:1].expand(2, -1, -1)):
        got = esat_kernels.gather_tokens(view, kept, 9, backend="triton")
        assert torch.equal(got, esat_kernels.gather_tokens(view, kept, 9, backend="reference"))
        got = esat_kernels.scatter_tokens(view[:, :count], kept, search, backend="triton")
        assert torch.equal(got, esat_kernels.scatter_tokens(view[:, :count], kept, search, backend="reference"))


def test_positions_outside_give_zeros():
    tokens = torch.ones(1, 5, 20, device=DEVICE)
    kept = torch.tensor([[0, -1, 2**40, 2]], device=DEVICE)
    assert esat_kernels.gather_tokens(tokens, kept, 2, backend="triton")[0, :, 0].tolist() == [1, 1, 1, 0, 0, 1]
    assert esat_kernels.scatter_tokens(tokens[:, :4], kept, 6, backend="triton")[0, :, 0].tolist() == [1, 0, 1, 0, 0, 0]
    none = torch.empty(1, 0, dtype=torch.int64, device=DEVICE)
    assert torch.equal(esat_kernels.gather_tokens(tokens, none, 2, backend="triton"), tokens[:, :2])
    assert (esat_kernels.scatter_tokens(tokens[:, :0], none, 4, backend="triton") == 0).all()


@pytest.mark.parametrize(("num_template", "n", "keep", "rows"), [(9, 60, 42, 8), (0, 17, 17, 2), (19, 20, 1, 8)])
def test_elimination_in_one_launch(num_template, n, keep, rows, monkeypatch):
    monkeypatch.setattr(elimination, "eliminate_rows", lambda _: rows)
    generator = torch.Generator().manual_seed(n)
    scores = (torch.randn(2, n, generator=generator) * 4).round()
    tokens = torch.randn(2, num_template + n, 20, generator=generator)
    attended = torch.randn(2, 7, num_template + n, generator=generator).bfloat16().mT
    tensors = device(scores, tokens, attended)
    earlier = torch.stack([torch.randperm(2 * n, generator=generator)[:n].sort().values for _ in range(2)]).to(DEVICE)
    for places in (None, earlier):
        results = [
            esat_kernels.eliminate_tokens(tensors[0], keep, *tensors[1:], num_template, backend=backend, places=places)
            for backend in ("triton", "reference")
        ]
        assert all(equal(a, b) for a, b in zip(*results, strict=True))


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


def test_the_operators_keep_their_promises():
    frame, frame_size = torch.zeros(300, dtype=torch.uint8), torch.tensor([10, 10], dtype=torch.int32)
    boxes, out = torch.tensor([[1.0, 1.0, 4.0, 4.0]]).double(), torch.zeros(1, 1, 768)
    maps, regions, state_boxes = state(2, 4)
    given, wide = operands(3, 16, 8, BFLOAT16), operands(3, 16, 96, BFLOAT16)
    scores, tokens, kept = torch.rand(1, 6), torch.rand(1, 8, 4), torch.tensor([[1, 3]])
    calls = [
        (crop.crop_regions, (frame, frame_size, boxes, 2.0, 16, 16, out, True, [1.0, 1.0, 1.0], [0.0, 0.0, 0.0], None)),
        (decode.advance_boxes, (*maps, regions, state_boxes, frame_size, 10, None)),
        (decode.advance_boxes, (*maps, regions, state_boxes, frame_size, 10, torch.rand(2, 16, 3))),
        (elimination.select_tokens, (scores, 2)),
        (elimination.gather_tokens, (tokens, kept, 2)),
        (elimination.scatter_tokens, (tokens[:, :2], kept, 6)),
        (elimination.eliminate_tokens, (scores, 2, tokens, tokens.bfloat16(), 2, None)),
        (elimination.eliminate_tokens, (scores, 2, tokens, tokens.bfloat16(), 2, torch.arange(6).view(1, 6))),
        (head.head_features, (torch.rand(1, 2, 8), torch.rand(8), torch.rand(8), 1e-6, kept, 6, BFLOAT16)),
        (head.head_maps, (torch.rand(1, 4, 8), torch.rand(5, 8), torch.rand(5), 2)),
        (head.head_convolution, (torch.rand(1, 4, 24), torch.rand(6, 3, 3, 8), torch.rand(6), 3, 2)),
        (head.head_convolution_with_maps, (*(torch.rand(*shape) for shape in ((1, 4, 24), (6, 3, 3, 8), (6,), (5, 6), (5,))), 2)),
        (linear.linear, (given["x"], given["weight"], given["bias"], 1e-6, "gelu", given["residual"], BFLOAT16)),
        (linear.linear, (given["x"], given["weight"], None, None, None, None, FLOAT32)),
        (
            linear.linear_into,
            (
                torch.empty(1, 3, 96, dtype=BFLOAT16),
                wide["x"][None],
                wide["weight"],
                wide["bias"],
                None,
                "gelu",
                None,
                None,
                0.0,
                torch.empty(3, 2),
                32,
                16,
                torch.empty(1, 3, 96, dtype=BFLOAT16),
                torch.empty(3, 3, 3),
            ),
        ),
        (linear.linear_with_squares, (*(wide[name] for name in ("x", "weight", "bias")), 1e-6, BFLOAT16, 32, 16, 2)),
    ]
    for operator, arguments in calls:
        moved = tuple(a.to(DEVICE) if isinstance(a, Tensor) else a for a in arguments)
        torch.library.opcheck(operator, moved, test_utils=("test_schema", "test_faketensor"))


def test_compiled_programs_hold_the_kernels():
    given = {name: t.to(DEVICE) for name, t in operands(5, 32, 8, BFLOAT16).items()}

    def layer(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        out = esat_kernels.linear(x, weight, bias, norm_eps=1e-6, activation="gelu", residual=residual, backend="triton")
        kept = esat_kernels.select_tokens(out.T, 3, backend="triton")
        return esat_kernels.gather_tokens(out.T[:, :, None], kept, 0, backend="triton")

    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(**given), layer(**given))


REFUSALS = [
    (
        lambda: esat_kernels.select_tokens(torch.zeros(1, 9, device=DEVICE).double(), 2, "triton"),
        "scores must be float32, bfloat16 or float16",
    ),
    (lambda: esat_kernels.select_tokens(torch.zeros(1, 4097, device=DEVICE), 2, "triton"), "there must be at most 4096 scores, got 4097"),
    (
        lambda: esat_kernels.scatter_tokens(
            torch.zeros(1, 1, 4, dtype=torch.complex64, device=DEVICE), torch.zeros(1, 1, dtype=torch.int64, device=DEVICE), 2, "triton"
        ),
        "tokens must be real numbers, got torch.complex64",
    ),
    (
        lambda: esat_kernels.linear(
            torch.zeros(2, 4, device=DEVICE, requires_grad=True), torch.zeros(3, 4, device=DEVICE), backend="triton"
        ),
        "this kernel has no gradient",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSALS)
def test_frame_refusals(call, message):
    with pytest.raises(NotImplementedError) as error:
        call()
    assert message in str(error.value)
