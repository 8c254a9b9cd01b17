"""The check of golden metrics: made-up predictions and the figures that the public toolkits gave for them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.findings import Finding, Target
from engine.errors import DatasetError
from engine.evaluation import metrics

PERCENT_POINTS = 1e-4
_OTB_FIELDS = ("AUC", "P", "P_norm")


def check_metrics(path: Path, content: dict[str, Any], target: Target) -> Finding:
    """Every figure of the file, in percent points.

    The got10k toolkit clips boxes to the image IN PLACE. A file that was written after such a run holds clipped predictions, while its
    OTB figures were computed from the unclipped ones, which cannot be recovered. Where a box ends exactly at the image's border, the OTB
    figures are therefore only bounded (see `_bounds`): `details` names the sequences that agree only in that sense. AO and SR are exact.
    """
    exact: dict[str, float] = {}
    bounded: dict[str, float] = {}
    scores, pooled, lows, highs = [], [], [], []
    for name, sequence in content["sequences"].items():
        truth, predictions = _read(name, sequence)
        score = metrics.evaluate("otb", truth, predictions, toolkit_rounding=True)
        low, high = _bounds(truth, predictions)
        scores.append(score)
        pooled.append(metrics.evaluate("got10k", truth, predictions))
        lows.append(low)
        highs.append(high)
        exact[f"{name} AO"] = abs(score.values["AO"] - 100 * sequence["AO"])
        for field in _OTB_FIELDS:
            _compare(f"{name} {field}", score.values[field], sequence[field], low[field], high[field], exact, bounded)
    summary = metrics.summarise("otb", scores)
    for field, expected in _figures(content, "OTB_preset").items():
        unsure = any(key.endswith(f" {field}") for key in bounded)  # else every sequence is exact, and the mean has to be
        low_mean, high_mean = (float(np.mean([row[field] for row in rows])) if unsure else 0.0 for rows in (lows, highs))
        _compare(f"mean {field}", summary[field], expected, low_mean, high_mean, exact, bounded)
    pooled_summary = metrics.summarise("got10k", pooled)
    for field, expected in _figures(content, "GOT10K_preset").items():
        exact[f"pooled {field}"] = abs(pooled_summary[field] - 100 * expected)
    if "LaSOT_preset_absent" in content:
        exact |= _absent(content)
    worst = max([*exact.values(), *bounded.values()])
    details = {"max_abs_error_exact": max(exact.values()), "figures": len(exact), "only_bounded": sorted(bounded)}
    return Finding(worst, worst <= PERCENT_POINTS, None, details)


def _read(name: str, sequence: dict[str, Any]) -> tuple[metrics.Truth, NDArray[np.float64]]:
    try:
        width, height = sequence["image_size"]
        truth = metrics.Truth(name, np.asarray(sequence["ground_truth"], np.float64), (int(width), int(height)))
        return truth, np.asarray(sequence["predictions"], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"metrics file, sequence {name!r}: {type(error).__name__}: {error}") from error


def _figures(content: dict[str, Any], preset: str) -> dict[str, float]:
    return {key: value for key, value in content.get(preset, {}).items() if key in metrics.FIELDS}


def _compare(key: str, found: float, expected: float, low: float, high: float, exact: dict[str, float], bounded: dict[str, float]) -> None:
    error = abs(found - expected)
    if error <= PERCENT_POINTS or low == high:
        exact[key] = error
    else:
        bounded[key] = max(low - expected, expected - high, 0.0)


def _absent(content: dict[str, Any]) -> dict[str, float]:
    expected = content["LaSOT_preset_absent"]
    truth, predictions = _read(expected["sequence"], content["sequences"][expected["sequence"]])
    absent = np.zeros(len(truth.boxes), bool)
    absent[slice(*expected["absent_frames"])] = True
    score = metrics.evaluate("lasot", dataclasses.replace(truth, absent=absent), predictions, toolkit_rounding=True)
    return {f"absent {field}": abs(score.values[field] - expected[field]) for field in _OTB_FIELDS}


def _bounds(truth: metrics.Truth, predictions: NDArray[np.float64]) -> tuple[dict[str, float], dict[str, float]]:
    """What AUC, P and P_norm can be, in percent, when boxes that end at the image's border may have been clipped to it.

    Their overlap before the clipping is at most that of the clipped box (the truth lies inside the image), at least 0; their centre may
    have been anywhere. The first frame is the ground truth.
    """
    assert truth.image_size is not None
    ends = predictions[:, :2] + predictions[:, 2:]
    at_border: NDArray[np.bool_] = np.asarray(
        ((predictions[:, :2] <= 0) | (ends >= np.asarray(truth.image_size) - 0.011)).any(axis=1)
    )  # boxes have two decimals
    at_border[0] = False
    score = metrics.evaluate("otb", truth, predictions, toolkit_rounding=True)
    high = {field: score.values[field] for field in _OTB_FIELDS}
    low = dict(high)
    if at_border.any():
        far = predictions.copy()
        far[at_border] = [1e6, 1e6, 1.0, 1.0]
        near = np.where(at_border[:, None], truth.boxes, predictions)
        low = {field: metrics.evaluate("otb", truth, far, toolkit_rounding=True).values[field] for field in _OTB_FIELDS}
        best = metrics.evaluate("otb", truth, near).values
        high |= {field: best[field] for field in ("P", "P_norm")}
    return low, high
