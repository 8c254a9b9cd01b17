"""Crops of several boxes on the device: the same pixels as the one-at-a-time calls."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import esat_kernels
from esat_kernels.crop import reference
from esat_kernels.crop.geometry import region_around

FRAMES = [(1, 1), (1, 40), (33, 1), (2, 3), (60, 81), (240, 320)]  # height, width


def frame_of(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def boxes_in(height: int, width: int) -> list[tuple[float, float, float, float]]:
    """Inside, across every border, around everything, beside the frame, on ties of the rounding, one to one and two to one at 32 pixels."""
    return [
        (0.3 * width, 0.2 * height, 0.3 * width + 1, 0.4 * height + 1),
        (-7.25, -9.5, 20.0, 14.0),
        (width - 9.0, height - 6.0, 17.0, 8.0),
        (-2.0 * width, -2.0 * height, 5.0 * width, 5.0 * height),
        (width + 300.0, 5.0, 12.0, 12.0),
        (3.0, -400.0, 12.0, 12.0),
        (10.0, 20.0, 5.0, 5.0),
        (11.0, 21.0, 5.0, 5.0),
        (4.0, 4.0, 8.0, 8.0),
        (4.0, 4.0, 16.0, 16.0),
        (0.5, 0.5, 0.25, 0.25),
    ]


def expected_rows(frame: np.ndarray, box: tuple[float, float, float, float], factor: float, size: int, bgr: bool) -> torch.Tensor:
    rows = torch.empty((size // 16) ** 2, 768)
    esat_kernels.crop_patches(frame, box, factor, size, rows, bgr=bgr, normalise=False, backend="reference")
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    return (rows.double() / 255 - torch.from_numpy(mean).double().repeat_interleave(256)) / torch.from_numpy(
        std
    ).double().repeat_interleave(256)


@pytest.mark.parametrize(("height", "width"), FRAMES)
@pytest.mark.parametrize("bgr", [True, False])
def test_crops_are_those_of_crop_patches(height: int, width: int, bgr: bool) -> None:
    frame, boxes = frame_of(height, width), boxes_in(height, width)
    buffer = torch.cat([torch.from_numpy(frame).flatten(), torch.full((100,), 255, dtype=torch.uint8)])
    out = torch.full((len(boxes), 4, 800), math.nan)[:, :, 16:784]
    frame_size = torch.tensor([height, width], dtype=torch.int32)
    regions = esat_kernels.crop_regions(buffer, frame_size, torch.tensor(boxes, dtype=torch.float64), 4.0, 32, out, bgr=bgr)
    assert regions.tolist() == [list(map(float, region_around(box, 4.0))) for box in boxes]
    for box, rows in zip(boxes, out, strict=True):
        torch.testing.assert_close(rows.double(), expected_rows(frame, box, 4.0, 32, bgr), rtol=0, atol=4e-7)  # a grey level is 0.017


def test_any_factor_and_size_give_opencv_s_pixels() -> None:
    random = np.random.default_rng(0)
    for _ in range(60):
        height, width, size = int(random.integers(1, 120)), int(random.integers(1, 120)), 16 * int(random.integers(1, 6))
        frame, factor = frame_of(height, width), float(random.uniform(0.5, 6))
        box = (*random.uniform(-50, 120, 2).tolist(), *random.uniform(0.5, 80, 2).tolist())
        out = torch.empty(1, (size // 16) ** 2, 768)
        frame_size = torch.tensor([height, width], dtype=torch.int32)
        esat_kernels.crop_regions(torch.from_numpy(frame).flatten(), frame_size, torch.tensor([box]).double(), factor, size, out, bgr=False)
        region = region_around(tuple(torch.tensor([box]).double()[0].tolist()), factor)
        pixels = torch.from_numpy(reference.crop_resize(frame, region, size)).view(size // 16, 16, size // 16, 16, 3).permute(0, 2, 4, 1, 3)
        std, mean = (torch.tensor(t).repeat_interleave(256) for t in ((0.229, 0.224, 0.225), (0.485, 0.456, 0.406)))
        assert torch.equal(((out[0] * std + mean) * 255).round().to(torch.uint8), pixels.reshape(-1, 768)), (box, factor, size)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rows_are_the_rounded_ones(dtype: torch.dtype) -> None:
    buffer, frame_size = torch.from_numpy(frame_of(60, 81)).flatten(), torch.tensor([60, 81], dtype=torch.int32)
    boxes = torch.tensor(boxes_in(60, 81), dtype=torch.float64)
    wide, rounded = torch.empty(len(boxes), 9, 768), torch.empty(len(boxes), 9, 768, dtype=dtype)
    for out in (wide, rounded):
        esat_kernels.crop_regions(buffer, frame_size, boxes, 5.0, 48, out)
    assert torch.equal(rounded, wide.to(dtype))


@pytest.mark.parametrize(
    "bad", [(math.nan, 1, 5, 5), (1, math.inf, 5, 5), (1, 1, 0, 5), (1, 1, -3, -3), (1, 1, math.nan, 5), (1, 1, 1e300, 1e300)]
)
def test_a_box_without_an_area_gives_a_black_crop_and_the_others_stay(bad: tuple[float, ...]) -> None:
    buffer, frame_size = torch.from_numpy(frame_of(60, 81)).flatten(), torch.tensor([60, 81], dtype=torch.int32)
    good = (10.0, 10.0, 20.0, 20.0)
    out, alone = torch.empty(2, 4, 768), torch.empty(1, 4, 768)
    regions = esat_kernels.crop_regions(buffer, frame_size, torch.tensor([bad, good], dtype=torch.float64), 2.0, 32, out)
    expected = esat_kernels.crop_regions(buffer, frame_size, torch.tensor([good], dtype=torch.float64), 2.0, 32, alone)
    assert regions[0].isnan().all()
    assert torch.equal(regions[1:], expected)
    assert torch.equal(out[1], alone[0])
    black = -torch.tensor((0.485, 0.456, 0.406)) / torch.tensor((0.229, 0.224, 0.225))
    torch.testing.assert_close(out[0], black.repeat_interleave(256).expand(4, 768), rtol=0, atol=1e-6)


def test_boxes_far_away_and_very_large_are_black() -> None:
    buffer, frame_size = torch.from_numpy(frame_of(60, 81)).flatten(), torch.tensor([60, 81], dtype=torch.int32)
    boxes = torch.tensor([(1e300, 1.0, 5.0, 5.0), (-1e18, -1e18, 5.0, 5.0), (1e9, 1e9, 1e8, 1e8)], dtype=torch.float64)
    out = torch.empty(3, 4, 768)
    regions = esat_kernels.crop_regions(buffer, frame_size, boxes, 2.0, 32, out)
    assert regions[:, 2].tolist() == [10.0, 10.0, 2e8]
    assert (out.view(3, 4, 3, 256).amax((1, 3)) < -1.7).all()


def test_a_frame_size_larger_than_the_buffer_reads_nothing_behind_it() -> None:
    buffer = torch.full((300,), 255, dtype=torch.uint8)[:150]
    out = torch.empty(1, 1, 768)
    esat_kernels.crop_regions(
        buffer, torch.tensor([10, 10], dtype=torch.int32), torch.tensor([(0.0, 0.0, 8.0, 8.0)], dtype=torch.float64), 1.0, 16, out
    )
    pixels = out.view(3, 16, 16)[0]
    assert (pixels[:9] > 2).all()
    assert (pixels[11:] < -2).all()


def test_a_frame_s_steps_read_nothing_on_the_host() -> None:
    """Fake tensors have no values: whoever asks for one raises."""
    with FakeTensorMode():
        boxes, frame_size = torch.empty(2, 4, dtype=torch.float64), torch.empty(2, dtype=torch.int32)
        patches = torch.empty(2, 4, 768)
        regions = esat_kernels.crop_regions(torch.empty(3000, dtype=torch.uint8), frame_size, boxes, 4.0, 32, patches)
        tokens = esat_kernels.linear(patches.view(8, 768), torch.empty(16, 768), norm_eps=1e-6).view(2, 4, 16)
        kept, tokens, _ = esat_kernels.eliminate_tokens(torch.empty(2, 3), 2, tokens, tokens, 1, backend="reference")
        tokens = esat_kernels.scatter_tokens(tokens[:, 1:], kept, 4, backend="reference")
        maps = (tokens[:, :, :1].reshape(2, 1, 2, 2), *(tokens[:, :, :2].reshape(2, 2, 2, 2) for _ in range(2)), torch.empty(2, 2))
        assert esat_kernels.advance_boxes(*maps, regions, boxes, frame_size).shape == (2, 12)


BUFFER, SIZE = torch.zeros(30 * 40 * 3, dtype=torch.uint8), torch.tensor([30, 40], dtype=torch.int32)
BOXES, OUT = torch.tensor([(1.0, 1.0, 5.0, 5.0)], dtype=torch.float64), torch.empty(1, 4, 768)
BAD_CALLS = [
    ((BUFFER.float(), SIZE, BOXES, 2.0, 32, OUT), TypeError, "frame must be uint8, got torch.float32"),
    ((BUFFER.view(30, 120), SIZE, BOXES, 2.0, 32, OUT), ValueError, "frame must have 1 dimension, got (30, 120)"),
    ((BUFFER[::2], SIZE, BOXES, 2.0, 32, OUT), ValueError, "frame must be a buffer of adjacent pixels, got (1800,), strides (2,)"),
    ((BUFFER[:0], SIZE, BOXES, 2.0, 32, OUT), ValueError, "frame must be a buffer of adjacent pixels, got (0,)"),
    ((BUFFER, SIZE.long(), BOXES, 2.0, 32, OUT), TypeError, "frame_size must be int32, got torch.int64"),
    ((BUFFER, torch.zeros(3, dtype=torch.int32), BOXES, 2.0, 32, OUT), ValueError, "frame_size must be [2], height and width, got (3,)"),
    ((BUFFER, SIZE, BOXES.float(), 2.0, 32, OUT), TypeError, "boxes must be float64, got torch.float32"),
    ((BUFFER, SIZE, BOXES[0], 2.0, 32, OUT), ValueError, "boxes must have 2 dimensions, got (4,)"),
    ((BUFFER, SIZE, BOXES[:, :3], 2.0, 32, OUT), ValueError, "boxes must be [B, 4], got (1, 3)"),
    ((BUFFER, SIZE, BOXES[:0], 2.0, 32, OUT), ValueError, "boxes must be [B, 4], got (0, 4)"),
    ((BUFFER, SIZE, BOXES, 0.0, 32, OUT), ValueError, "factor must be a positive number, got 0.0"),
    ((BUFFER, SIZE, BOXES, 2.0, 0, OUT), ValueError, "size must be positive, got 0"),
    ((BUFFER, SIZE, BOXES, 2.0, 40, OUT), ValueError, "size must be a multiple of 16, got 40"),
    ((BUFFER, SIZE, BOXES, 2.0, 48, OUT), ValueError, "out must be (1, 9, 768) with rows adjacent in themselves, got (1, 4, 768)"),
    ((BUFFER, SIZE, BOXES, 2.0, 32, torch.empty(1, 768, 4).mT), ValueError, "strides (3072, 1, 4)"),
    ((BUFFER, SIZE, BOXES, 2.0, 32, torch.empty(1, 1, 768).expand(1, 4, 768)), ValueError, "strides (768, 0, 1)"),
    ((BUFFER, SIZE, BOXES, 2.0, 32, OUT.double()), TypeError, "out must be float32, bfloat16 or float16, got torch.float64"),
    ((BUFFER, SIZE, BOXES.to("meta"), 2.0, 32, OUT), ValueError, "boxes must be on cpu like the frame, got meta"),
    ((BUFFER, SIZE, BOXES, 2.0, 32, OUT, True, "cpu"), NotImplementedError, "backend 'cpu' has no kernel for this operation"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_CALLS)
def test_bad_calls(arguments, error, message) -> None:
    with pytest.raises(error) as caught:
        esat_kernels.crop_regions(*arguments)
    assert message in str(caught.value)
