"""From the search region to the frame."""

import math

import pytest
import torch

from engine.boxes import clip, to_frame
from engine.runners.postprocess import hann_window
from esat_kernels.decode import reference


def test_hann_window_has_no_zero_ends_and_peaks_in_the_middle():
    window = hann_window(3)
    assert torch.allclose(window, torch.outer(torch.tensor([0.5, 1.0, 0.5]), torch.tensor([0.5, 1.0, 0.5])))
    assert hann_window(16).min() > 0


def test_the_centre_of_the_region_is_the_previous_centre():
    assert to_frame((0.5, 0.5, 0.25, 0.5), 80, (10, 20, 30, 40)) == (15, 20, 20, 40)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((5, 6, 20, 30), (5, 6, 20, 30)),
        ((-5, -6, 20, 30), (0, 0, 15, 24)),
        ((95, 70, 20, 30), (90, 70, 10, 10)),
        ((-50, -60, 20, 30), (0, 0, 10, 10)),
        ((500, 600, 20, 30), (90, 70, 10, 10)),
        ((5, 6, 1, 2), (5, 6, 10, 10)),
    ],
)
def test_clip_keeps_ten_pixels_inside(box, expected):
    assert clip(box, 100, 80) == expected


@pytest.mark.parametrize("place", range(4))
def test_clip_keeps_nan_where_the_devices_do(place):
    box = [5.0, 6.0, 20.0, 30.0]
    box[place] = math.nan
    (x, w), (y, h) = (
        reference._clip(*(torch.tensor(value, dtype=torch.float64) for value in (box[axis], box[axis + 2], length)), 10)
        for axis, length in ((0, 100.0), (1, 80.0))
    )
    assert clip(tuple(box), 100, 80) == pytest.approx([value.item() for value in (x, y, w, h)], nan_ok=True)
