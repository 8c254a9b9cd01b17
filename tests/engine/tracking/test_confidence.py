"""The confidence of a frame: scores and features against what is usual for the target."""

import numpy as np
import pytest
import torch

from engine.runners.postprocess import Surroundings
from engine.runners.protocol import Observation
from engine.tracking.confidence import AppearanceModel

HERE = Observation((40.0, 40.0, 20.0, 20.0), (40.0, 40.0, 20.0, 20.0), 100.0, 0.6, 0.6, None, np.array([1, 0, 0], np.float32))
GONE = HERE._replace(score=0.4, weighted_score=0.1, features=np.array([0, 1, 0], np.float32))


def _after(*frames):
    usual = AppearanceModel()
    for frame in frames:
        usual.learn(frame)
    return usual


@pytest.mark.parametrize(
    ("changes", "centred", "expected"),
    [
        ({}, True, 1),
        ({"weighted_score": 0.9}, True, 1),
        ({"weighted_score": 0.3}, True, 0.5),
        ({"weighted_score": 0.3}, False, 1),
        ({"score": 0.15}, False, 0.25),
        ({"features": np.array([1, 1, 0], np.float32)}, True, 0.5**0.5),
        ({"features": np.array([5, 0, 0], np.float32)}, True, 1),
        ({"features": np.array([0, 1, 0], np.float32)}, True, 0),
        ({"features": np.array([-1, 0, 0], np.float32)}, True, 0),
        ({"features": np.zeros(3, np.float32)}, True, 0),
        ({"features": None, "weighted_score": 0.3}, True, 0.5),
    ],
)
def test_a_target_is_its_own_yardstick(changes, centred, expected):
    assert _after(HERE, HERE, HERE).confidence(HERE._replace(**changes), centred) == pytest.approx(expected, abs=1e-6)


def test_before_anything_was_learnt_everything_is_the_target():
    assert AppearanceModel().confidence(GONE) == 1.0


def test_the_first_frames_count_alike_and_later_ones_little():
    assert _after(HERE, GONE).confidence(HERE) == pytest.approx(0.5**0.5)
    assert _after(*[HERE] * 16, *[GONE] * 10).confidence(HERE) > 0.98


def test_scores_of_zero_are_no_division():
    nothing = HERE._replace(score=0.0, weighted_score=0.0)
    assert _after(nothing).confidence(HERE) == 0.0


@pytest.mark.parametrize("side", [1, 2, 5])
def test_surroundings_are_means_of_nine_cells_with_zeros_outside(side):
    features = torch.randn(side * side, side * side, 7, generator=torch.Generator().manual_seed(0)).bfloat16()  # a batch item for each cell
    cells = torch.arange(side * side)
    maps = features.float().transpose(1, 2).unflatten(2, (side, side))
    expected = torch.nn.functional.avg_pool2d(maps, 3, stride=1, padding=1).flatten(2)[cells, :, cells]
    torch.testing.assert_close(Surroundings(side, torch.device("cpu"))(features, cells), expected)
