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
from esat_kernels.linear import triton as linear
from esat_kernels.linear import triton_tiles
from esat_kernels.linear.triton_tiles import Tiles
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


def test_a_crop_reads_nothing_behind_a_buffer_that_is_too_short():
    frame = torch.full((300,), 255, dtype=torch.uint8, device=DEVICE)[:150]
    box, frame_size = device(torch.tensor([(0.0, 0.0, 8.0, 8.0)]).double(), torch.tensor([10, 10], dtype=torch.int32))
    outs = [torch.empty(1, 1, 768, device=DEVICE) for _ in range(2)]
    for out, backend in zip(outs, ("triton", "reference"), strict=True):
        esat_kernels.crop_regions(frame, frame_size, box, 1.0, 16, out, backend=backend)
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
    results = [
        esat_kernels.eliminate_tokens(tensors[0], keep, *tensors[1:], num_template, backend=backend) for backend in ("triton", "reference")
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


def test_the_operators_keep_their_promises():
    frame, frame_size = torch.zeros(300, dtype=torch.uint8), torch.tensor([10, 10], dtype=torch.int32)
    boxes, out = torch.tensor([[1.0, 1.0, 4.0, 4.0]]).double(), torch.zeros(1, 1, 768)
    maps, regions, state_boxes = state(2, 4)
    given, wide = operands(3, 16, 8, BFLOAT16), operands(3, 16, 96, BFLOAT16)
    scores, tokens, kept = torch.rand(1, 6), torch.rand(1, 8, 4), torch.tensor([[1, 3]])
    calls = [
        (crop.crop_regions, (frame, frame_size, boxes, 2.0, 16, 16, out, True, [1.0, 1.0, 1.0], [0.0, 0.0, 0.0])),
        (decode.advance_boxes, (*maps, regions, state_boxes, frame_size, 10)),
        (elimination.select_tokens, (scores, 2)),
        (elimination.gather_tokens, (tokens, kept, 2)),
        (elimination.scatter_tokens, (tokens[:, :2], kept, 6)),
        (elimination.eliminate_tokens, (scores, 2, tokens, tokens.bfloat16(), 2)),
        (linear.linear, (given["x"], given["weight"], given["bias"], 1e-6, "gelu", given["residual"], BFLOAT16)),
        (linear.linear, (given["x"], given["weight"], None, None, None, None, FLOAT32)),
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
