"""From maps to the next boxes on the device: the same numbers as the engine's loop computes one target at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import esat_kernels
from engine.boxes import clip, to_frame
from engine.runners import postprocess
from tests.kernels.defaults import DEFAULTS, set_default

HEIGHT, WIDTH = 120, 160
FRAME_SIZE = torch.tensor([HEIGHT, WIDTH], dtype=torch.int32)


def state(batch: int, side: int, seed: int = 0) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """Maps and window; regions and boxes, some of which lie across a border or in a corner."""
    generator = torch.Generator().manual_seed(seed)
    maps = (
        torch.rand(batch, 1, side, side, generator=generator),
        torch.rand(batch, 2, side, side, generator=generator),
        torch.randn(batch, 2, side, side, generator=generator),
        postprocess.hann_window(side),
    )
    spread = torch.tensor([WIDTH, HEIGHT, 60, 60], dtype=torch.float64)
    boxes = torch.rand(batch, 4, generator=generator, dtype=torch.float64) * spread + torch.tensor([-30.0, -30.0, 10.0, 10.0]).double()
    sides = torch.ceil((boxes[:, 2] * boxes[:, 3]).sqrt() * 4.0)
    return maps, torch.stack([torch.zeros(batch).double(), torch.zeros(batch).double(), sides], dim=1), boxes


def expected_record(maps: tuple[Tensor, ...], regions: Tensor, boxes: Tensor, frame_size: Tensor) -> list[list[float]]:
    decoded = esat_kernels.decode_maps(*maps, backend="reference")
    height, width = frame_size.tolist()
    records = []
    for item, (_, _, side) in enumerate(regions.tolist()):
        box = to_frame(tuple(decoded.box[item].tolist()), side, tuple(boxes[item].tolist()))
        scores = (float(decoded.score[item]), float(decoded.weighted_score[item]), side, float(decoded.cell[item]))
        records.append([*map(float, clip(box, width, height)), *scores, *box])
    return records


@pytest.mark.parametrize("side", [1, 7, 16, 24])
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("frame_size", [(HEIGHT, WIDTH), (1, 1), (8, 300), (2160, 3840)])
def test_the_next_boxes_are_those_of_the_loop(side: int, batch: int, frame_size: tuple[int, int]) -> None:
    size = torch.tensor(frame_size, dtype=torch.int32)
    for seed in range(10):
        maps, regions, boxes = state(batch, side, seed)
        expected = expected_record(maps, regions, boxes, size)
        record = esat_kernels.advance_boxes(*maps, regions, boxes, size)
        assert record.tolist() == expected
        assert torch.equal(boxes, record[:, :4])


class _DividingAsOnCuda(TorchDispatchMode):
    """PyTorch's kernels on CUDA multiply by the reciprocal of a divisor that is a number, not a tensor."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.div.Tensor and not isinstance(args[1], Tensor):
            return args[0] * (1.0 / torch.tensor(float(args[1]))).item()
        return function(*args, **(kwargs or {}))


def test_a_gpu_divides_like_the_loop() -> None:
    for side in (7, 24):
        maps, regions, boxes = state(64, side)
        expected = esat_kernels.advance_boxes(*maps, regions, boxes.clone(), FRAME_SIZE, "reference")
        with _DividingAsOnCuda():
            assert torch.equal(esat_kernels.advance_boxes(*maps, regions, boxes, FRAME_SIZE, "reference"), expected)


def test_maps_of_half_precision_and_any_stride() -> None:
    (score, size, offset, window), regions, boxes = state(2, 8)
    maps = (score.bfloat16().mT, size.bfloat16().flip(1), offset.bfloat16().mT, window)
    expected = expected_record(tuple(m.float() for m in maps), regions, boxes, FRAME_SIZE)
    assert esat_kernels.advance_boxes(*maps, regions, boxes, FRAME_SIZE).tolist() == expected


@pytest.mark.parametrize("default", DEFAULTS, ids=str)
def test_defaults_of_pytorch_change_nothing(default: torch.dtype | torch.device) -> None:
    maps, regions, boxes = state(2, 7)
    features = torch.rand(2, 49, 5)
    expected = esat_kernels.advance_boxes_with_features(*maps, regions, boxes.clone(), FRAME_SIZE, features)
    with set_default(default):
        got = esat_kernels.advance_boxes_with_features(*maps, regions, boxes, FRAME_SIZE, features)
    for value, other in zip(got, expected, strict=True):
        assert value.dtype == other.dtype
        assert torch.equal(value, other)


def test_nan_shows_in_its_box_and_in_no_other() -> None:
    maps, regions, boxes = state(3, 8)
    expected = esat_kernels.advance_boxes(*maps, regions, boxes.clone(), FRAME_SIZE)
    maps[1][0] = math.nan
    regions[2] = math.nan
    record = esat_kernels.advance_boxes(*maps, regions, boxes, FRAME_SIZE)
    assert record[0, 2:4].isnan().all()
    assert record[2, :4].isnan().all()
    assert torch.equal(record[1], expected[1])


@pytest.mark.parametrize("cell", [(0, 0), (3, 3), (0, 2), (1, 2)])
def test_the_features_around_the_chosen_cell(cell) -> None:
    """The mean over 3 x 3 cells, of which those beyond the border are zeros; the state is that of the call without features."""
    maps, regions, boxes = state(2, 4)
    maps[0][1, 0][cell] = 1e3
    features = torch.randn(2, 16, 5, generator=torch.Generator().manual_seed(0))
    expected = esat_kernels.advance_boxes(*maps, regions, boxes.clone(), FRAME_SIZE)
    record, around = esat_kernels.advance_boxes_with_features(*maps, regions, boxes, FRAME_SIZE, features)
    assert torch.equal(record, expected)
    assert int(record[1, 7]) == cell[0] * 4 + cell[1]
    image = torch.nn.functional.pad(features[1].view(4, 4, 5), (0, 0, 1, 1, 1, 1))
    mean = image[cell[0] : cell[0] + 3, cell[1] : cell[1] + 3].double().sum((0, 1)) / 9
    torch.testing.assert_close(around[1].double(), mean, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"features must be \(2, 16, C\), got \(2, 15, 5\)"):
        esat_kernels.advance_boxes_with_features(*maps, regions, boxes, FRAME_SIZE, features[:, 1:])


MAPS, REGIONS, BOXES = state(2, 4)
BAD_CALLS = [
    ((MAPS[0][:, 0], *MAPS[1:], REGIONS, BOXES, FRAME_SIZE), ValueError, "score_map must be [B, 1, F, F], got (2, 4, 4)"),
    ((*MAPS[:3], torch.ones(5, 5), REGIONS, BOXES, FRAME_SIZE), ValueError, "window must be (4, 4), got (5, 5)"),
    (
        (MAPS[0].double(), *MAPS[1:], REGIONS, BOXES, FRAME_SIZE),
        TypeError,
        "maps, window and features must be float32, bfloat16 or float16, got torch.float64",
    ),
    ((*MAPS, REGIONS.float(), BOXES, FRAME_SIZE), TypeError, "regions must be float64, got torch.float32"),
    ((*MAPS, REGIONS[:1], BOXES, FRAME_SIZE), ValueError, "regions must be (2, 3), got (1, 3)"),
    ((*MAPS, REGIONS, BOXES.float(), FRAME_SIZE), TypeError, "boxes must be float64, got torch.float32"),
    ((*MAPS, REGIONS, BOXES[:, :3], FRAME_SIZE), ValueError, "boxes must be (2, 4), got (2, 3)"),
    ((*MAPS, REGIONS, BOXES, FRAME_SIZE.long()), TypeError, "frame_size must be int32, got torch.int64"),
    ((*MAPS, REGIONS, BOXES, FRAME_SIZE[:1]), ValueError, "frame_size must be (2,), got (1,)"),
    ((*MAPS, REGIONS, BOXES.to("meta"), FRAME_SIZE), ValueError, "all tensors must be on cpu like the score map, got meta"),
    ((*MAPS, REGIONS, BOXES, FRAME_SIZE, "cpu"), NotImplementedError, "backend 'cpu' has no kernel for this operation"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_CALLS)
def test_bad_calls(arguments, error, message) -> None:
    with pytest.raises(error) as caught:
        esat_kernels.advance_boxes(*arguments)
    assert message in str(caught.value)
