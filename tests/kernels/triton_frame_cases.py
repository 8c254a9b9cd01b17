"""What the Triton kernels of crops, boxes and elimination have to meet, on a GPU or in the interpreter: the references' bits."""

from __future__ import annotations

import math

import pytest
import torch

import esat_kernels
from esat_kernels.elimination import triton as elimination
from tests.kernels.nv12_frames import buffer_of, nv12_of
from tests.kernels.test_advance import state
from tests.kernels.test_regions import boxes_in, frame_of
from tests.kernels.triton_device import BFLOAT16, DEVICE, FLOAT16, FLOAT32, INTERPRETED, device, equal
from tests.kernels.triton_device import nan_in_fresh_memory as nan_in_fresh_memory  # a fixture of every test here


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
