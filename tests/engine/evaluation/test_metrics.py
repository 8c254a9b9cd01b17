"""The presets against the public toolkits' figures, and against cases counted by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from engine.errors import ConfigError, DatasetError
from engine.evaluation import metrics

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "metrics.json").read_text())
TOLERANCE = 1e-4  # percent points


def truth_of(name: str) -> tuple[metrics.Truth, np.ndarray]:
    sequence = GOLDEN["sequences"][name]
    return metrics.Truth(name, np.array(sequence["ground_truth"]), tuple(sequence["image_size"])), np.array(sequence["predictions"])


@pytest.mark.parametrize("name", sorted(GOLDEN["sequences"]))
def test_a_sequence_equals_the_toolkits(name):
    truth, predictions = truth_of(name)
    values = metrics.evaluate("otb", truth, predictions, toolkit_rounding=True).values
    expected = GOLDEN["sequences"][name]
    assert values["AO"] == pytest.approx(100 * expected["AO"], abs=TOLERANCE)
    for field in ("AUC", "P", "P_norm"):
        assert values[field] == pytest.approx(expected[field], abs=TOLERANCE)


@pytest.mark.parametrize("name", sorted(GOLDEN["pytracking_preset"]["sequences"]))
def test_a_sequence_by_pytrackings_rule(name):
    values = metrics.evaluate("pytracking", *truth_of(name), toolkit_rounding=True).values
    for field, expected in GOLDEN["pytracking_preset"]["sequences"][name].items():
        assert values[field] == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize(("preset", "golden"), [("otb", "OTB_preset"), ("pytracking", "pytracking_preset")])
def test_means_equal_the_toolkits(preset, golden):
    summary = metrics.summarise(preset, [metrics.evaluate(preset, *truth_of(name), toolkit_rounding=True) for name in GOLDEN["sequences"]])
    for field in ("AUC", "P", "P_norm"):
        assert summary[field] == pytest.approx(GOLDEN[golden][field], abs=TOLERANCE)


def test_the_rules_of_valid_frames_differ_at_the_upper_and_left_border():
    boxes = row_of_boxes(0, 0, 0, 0)
    boxes[1, 0], boxes[2, 1], boxes[3] = 0, -2, 0
    truth = metrics.Truth("border", boxes)
    assert metrics.disputed_frames(truth) == 2  # the last frame is invalid by both
    assert metrics.evaluate("otb", truth, boxes).values["P"] == 75
    pytracking = metrics.evaluate("pytracking", truth, boxes).values
    assert pytracking["P"] == 25
    assert pytracking["AUC"] == pytest.approx(25 * 20 / 21)
    assert pytracking["P_norm"] == 100  # -1 is within every threshold, as in otb
    hidden = dataclasses.replace(truth, absent=np.array([False, True, False, False]))
    assert metrics.disputed_frames(hidden) == 1


def test_the_got10k_preset_pools_frames():
    scores = [metrics.evaluate("got10k", *truth_of(name)) for name in GOLDEN["sequences"]]
    summary = metrics.summarise("got10k", scores)
    for field in ("AO", "SR_0.5", "SR_0.75"):
        assert summary[field] == pytest.approx(100 * GOLDEN["GOT10K_preset"][field], abs=TOLERANCE)


def test_absent_frames_count_as_misses_in_lasot():
    golden = GOLDEN["LaSOT_preset_absent"]
    truth, predictions = truth_of(golden["sequence"])
    absent = np.zeros(len(truth.boxes), bool)
    absent[slice(*golden["absent_frames"])] = True
    values = metrics.evaluate("lasot", dataclasses.replace(truth, absent=absent), predictions, toolkit_rounding=True).values
    for field in ("AUC", "P", "P_norm"):
        assert values[field] == pytest.approx(golden[field], abs=TOLERANCE)


@pytest.mark.parametrize(
    ("preset", "field", "perfect"), [("otb", "AUC", 2000 / 21), ("lasot", "AUC", 2000 / 21), ("trackingnet", "AUC", 100)]
)
@pytest.mark.parametrize("name", ["vot_bag", "otb_Crossing"])
def test_a_perfect_tracker(preset, field, perfect, name):
    truth, _ = truth_of(name)
    scores = metrics.evaluate(preset, truth, truth.boxes)
    assert scores.values[field] == pytest.approx(perfect)
    assert [scores.values[key] for key in ("P", "P_norm", "AO", "SR_0.5", "SR_0.75")] == pytest.approx([100] * 5)


def row_of_boxes(*shifts: float) -> np.ndarray:
    return np.array([[10.0 + shift, 20.0, 10.0, 10.0] for shift in shifts])


def test_otb_by_hand():
    # IoU 1 (first frame, whatever was predicted), 1/3, 0, 1; centre errors 0, 5, 25, 0 px; over the width 0, 0.5, 2.5, 0.
    truth = metrics.Truth("hand", row_of_boxes(0, 0, 0, 0))
    scores = metrics.evaluate("otb", truth, row_of_boxes(50, 5, 25, 0))
    assert scores.values["AUC"] == pytest.approx(100 * (20 + 7 + 0 + 20) / (4 * 21))
    assert scores.values["P"] == 75
    assert scores.values["P_norm"] == 50
    assert scores.values["AO"] == pytest.approx(100 * (1 / 3 + 0 + 1) / 3)
    assert scores.values["SR_0.5"] == pytest.approx(100 / 3)


def test_trackingnet_by_hand():
    # Rounding makes the second box equal; the third has IoU 0, which counts at the threshold 0 only, and is 25 px away.
    truth = metrics.Truth("hand", row_of_boxes(0, 0, 0))
    values = metrics.evaluate("trackingnet", truth, row_of_boxes(9, 0.4, 25)).values
    steps = 20
    assert values["AUC"] == pytest.approx(100 * (2 / 3 + (1 / 3) * 0.5 / steps))
    assert values["P"] == pytest.approx(100 * (2 / 3 + (1 / 3) * 10.5 / steps))  # thresholds 25, 27.5 .. 50: eleven, the last a half
    assert values["P_norm"] == pytest.approx(100 * 2 / 3)


def test_invalid_frames_by_preset():
    boxes = row_of_boxes(0, 0, 0, 0)
    boxes[2] = 0  # a frame without a box
    boxes[3] = np.nan
    truth = metrics.Truth("gaps", boxes)
    perfect = row_of_boxes(0, 0, 0, 0)
    otb = metrics.evaluate("otb", truth, perfect).values
    assert otb["AUC"] == pytest.approx(50 * 20 / 21)
    assert otb["P"] == 50
    assert otb["P_norm"] == 100  # an error of -1 is within every threshold: what the toolkits compute
    assert metrics.evaluate("trackingnet", truth, perfect).values["P_norm"] == pytest.approx(50)


def test_cover_decides_which_frames_count_in_got10k():
    truth = metrics.Truth("cover", row_of_boxes(0, 0, 0), covered=np.array([True, False, True]))
    assert metrics.evaluate("got10k", truth, row_of_boxes(0, 100, 0)).values["AO"] == 100
    nothing = dataclasses.replace(truth, covered=np.array([True, False, False]))
    scores = [metrics.evaluate("got10k", t, row_of_boxes(0, 100, 0)) for t in (truth, nothing)]
    assert np.isnan(scores[1].values["AO"])
    assert metrics.summarise("got10k", scores)["AO"] == 100


def test_boxes_are_clipped_to_the_image_in_got10k():
    truth = metrics.Truth("edge", np.array([[0, 0, 10, 10], [90, 0, 10, 10.0]]), (100, 50))
    assert metrics.evaluate("got10k", truth, [[0, 0, 1, 1], [90, 0, 500, 10]]).values["AO"] == 100


def test_lengths_and_boxes_without_area():
    truth = metrics.Truth("length", row_of_boxes(0, 0, 0, 0))
    long = metrics.evaluate("otb", truth, row_of_boxes(0, 0, 0, 0, 0, 0))
    assert long.values["AUC"] == pytest.approx(2000 / 21)
    short = metrics.evaluate("otb", truth, row_of_boxes(0, 0))
    assert short.values["AUC"] == pytest.approx(1000 / 21)
    flat = row_of_boxes(0, 0, 0, 0)
    flat[2, 2] = 0
    assert metrics.evaluate("otb", truth, flat).values["AUC"] == pytest.approx(2000 / 21)  # the box before it stands in
    assert metrics.evaluate("got10k", truth, flat).values["AO"] == pytest.approx(200 / 3)  # no such repair there


@pytest.mark.parametrize(
    ("preset", "predictions", "error", "words"),
    [
        ("nonsense", row_of_boxes(0, 0), ConfigError, "expected one of otb"),
        ("otb", np.zeros((2, 3)), DatasetError, "boxes [N, 4], got (2, 3)"),
        ("otb", np.zeros((0, 4)), DatasetError, "got (0, 4)"),
        ("otb", [[0, 0, 1, 1], [0, np.nan, 1, 1]], DatasetError, "row 2"),
        ("otb", [[0, 0, 1, 1], [0, 0, -1, 1]], DatasetError, "w, h >= 0, row 2"),
        ("lasot", row_of_boxes(0), DatasetError, "expected 2 boxes, got 1"),
    ],
)
def test_results_that_cannot_be_scored(preset, predictions, error, words):
    with pytest.raises(error) as caught:
        metrics.evaluate(preset, metrics.Truth("bad", row_of_boxes(0, 0)), predictions)
    assert words in str(caught.value)


def test_no_sequence_has_no_mean():
    with pytest.raises(DatasetError):
        metrics.summarise("otb", [])
