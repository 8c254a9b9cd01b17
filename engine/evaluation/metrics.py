"""Accuracy of a tracker, by the definitions of the public toolkits. They disagree, so each is a preset with its own golden test.

preset       success                                        precision                      averaged over
otb, lasot   mean share of frames with IoU > 0, 0.05 .. 1   share within 20 px; within     sequences (OSTrack's toolkit)
                                                            0.20 of the box's size
pytracking   as otb, by another rule of valid frames        as otb                         sequences
got10k       AO: mean IoU; SR: share above 0.5, 0.75        as otb                         pooled frames (got10k toolkit)
trackingnet  trapezoid over IoU >= 0, 0.05 .. 1             trapezoid over 0 .. 50 px and  sequences (TrackingNet devkit)
                                                            0 .. 0.5 of the box's size

A frame of the ground truth is valid if its width and height exceed 0 (OSTrack, and later versions of pytracking). By the rule of the
pytracking preset all four numbers have to, so a box at x = 0 or y = 0 is a miss, whatever was predicted.

A perfect tracker scores 95.238 in otb and lasot (IoU > 1 never holds), 100 in got10k and trackingnet. Every preset also reports AO and SR by
GOT-10k's rule, since no other toolkit defines them. All figures are percent. Boxes are [N, 4] x, y, w, h in pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from engine.datasets.text import Flags, Floats
from engine.errors import ConfigError, DatasetError

PRESETS = ("otb", "pytracking", "lasot", "got10k", "trackingnet")
FIELDS = ("AUC", "P", "P_norm", "AO", "SR_0.5", "SR_0.75")

# The toolkits' own thresholds. k * 0.05 rather than linspace: pytracking and OSTrack make them with arange in steps of 0.05.
OVERLAP_THRESHOLDS = np.arange(21) * 0.05
PIXEL_THRESHOLDS = np.arange(51.0)
NORMALISED_THRESHOLDS = np.arange(51) / 100.0
_TRACKINGNET_OVERLAP = np.linspace(0, 1, 21)
_TRACKINGNET_PIXELS = np.linspace(0, 50, 21)
_TRACKINGNET_NORMALISED = np.linspace(0, 0.5, 21)


@dataclasses.dataclass(frozen=True)
class Truth:
    """What is known of one sequence. Frames whose box has no area or is not a number are invalid."""

    name: str
    boxes: Floats  # [N, 4]
    image_size: tuple[int, int] | None = None  # width, height; None: boxes are not clipped for AO and SR
    absent: Flags | None = None  # [N], True where the target is fully occluded or out of view (LaSOT)
    covered: Flags | None = None  # [N], True where GOT-10k's cover label is above 0; other frames do not count in AO and SR


@dataclasses.dataclass(frozen=True)
class Scores:
    """One sequence's figures, and the curves and overlaps that means are made of."""

    name: str
    frames: int
    values: dict[str, float]  # FIELDS, percent; NaN where no frame counts
    success: Floats  # share of frames above each of OVERLAP_THRESHOLDS
    precision: Floats  # share of frames within each of PIXEL_THRESHOLDS
    normalised_precision: Floats  # share of frames within each of NORMALISED_THRESHOLDS
    overlaps: Floats  # IoU of the frames that GOT-10k's rule counts


def iou(a: Floats, b: Floats, toolkit_rounding: bool = False) -> Floats:
    """Intersection over union of boxes [N, 4] and [N, 4], in [0, 1]; 0 where both boxes have no area.

    toolkit_rounding: the order of operations of pytracking and OSTrack, with their inclusive corners (x + w - 1, and + 1 on each side of the
    intersection), which cancel out but for rounding: equal boxes may then exceed 1 by the last bit and count at the threshold 1.
    """
    one = 1.0 if toolkit_rounding else 0.0
    low = np.maximum(a[:, :2], b[:, :2])
    high = np.minimum(a[:, :2] + a[:, 2:] - one, b[:, :2] + b[:, 2:] - one)
    intersection = np.prod(np.clip(high - low + one, 0, None), axis=1)
    union = np.prod(a[:, 2:], axis=1) + np.prod(b[:, 2:], axis=1) - intersection
    overlap = np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
    return overlap if toolkit_rounding else np.minimum(overlap, 1.0)


def centres(boxes: Floats) -> Floats:
    """x + (w - 1) / 2 and the same for y, [N, 2] (both toolkits)."""
    return boxes[:, :2] + 0.5 * (boxes[:, 2:] - 1.0)


def clip(boxes: Floats, image_size: tuple[int, int] | None) -> Floats:
    """Boxes cut to the image as the got10k toolkit does it."""
    if image_size is None:
        return boxes
    limit = np.asarray(image_size, np.float64)
    corner = np.clip(boxes[:, :2], 0, limit)
    return np.hstack([corner, np.clip(boxes[:, 2:], 0, limit - corner)])


def fit(truth: Truth, predictions: ArrayLike, strict: bool = False) -> Floats:
    """Predictions [M, 4] as [N, 4]: too many are cut, missing ones are zeros (IoU 0), the first is the ground truth.

    DatasetError for another shape, NaN, infinite or negative sizes, and, if `strict` (LaSOT in both toolkits), for missing boxes.
    """
    given = np.asarray(predictions, np.float64)
    if given.ndim != 2 or given.shape[1] != 4 or not len(given):
        raise DatasetError(f"{truth.name}: results must be boxes [N, 4], got {given.shape}")
    if not np.isfinite(given).all():
        raise DatasetError(f"{truth.name}: results must be finite, row {int(np.argwhere(~np.isfinite(given))[0, 0]) + 1} is not")
    if (given[:, 2:] < 0).any():
        row = int(np.argwhere(given[:, 2:] < 0)[0, 0])
        raise DatasetError(f"{truth.name}: results must have w, h >= 0, row {row + 1} is {given[row].tolist()}")
    frames = len(truth.boxes)
    if strict and len(given) < frames:
        raise DatasetError(f"{truth.name}: expected {frames} boxes, got {len(given)}")
    boxes = np.zeros((frames, 4))
    count = min(frames, len(given))
    boxes[:count] = given[:count]
    boxes[0] = truth.boxes[0]
    return boxes


def _repair(truth: Truth, boxes: Floats, given: int) -> Floats:
    """A box without area becomes the one before it, as in both toolkits; the zeros that stand for missing boxes stay."""
    boxes = boxes.copy()
    for row in np.flatnonzero((boxes[:given, 2:] == 0).any(axis=1)):
        if row > 0 and not np.isnan(truth.boxes[row]).any():
            boxes[row] = boxes[row - 1]
    return boxes


def evaluate(preset: str, truth: Truth, predictions: ArrayLike, toolkit_rounding: bool = False) -> Scores:
    """The figures of one sequence. toolkit_rounding: see `iou`; it can only matter where a box equals the ground truth.

    ConfigError for an unknown preset, DatasetError for results that cannot be scored (see `fit`)."""
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}: expected one of {', '.join(PRESETS)}")
    if not len(truth.boxes):
        raise DatasetError(f"{truth.name}: no ground truth")
    boxes = fit(truth, predictions, strict=preset == "lasot")
    repaired = boxes if preset == "trackingnet" else _repair(truth, boxes, len(np.asarray(predictions)))
    valid = _valid(truth, all_four=preset == "pytracking")
    overlap, error, normalised = _errors(truth, repaired, valid, preset == "lasot", toolkit_rounding)
    success = (overlap[:, None] > OVERLAP_THRESHOLDS).mean(0)
    precision = (error[:, None] <= PIXEL_THRESHOLDS).mean(0)
    normalised_precision = (normalised[:, None] <= NORMALISED_THRESHOLDS).mean(0)
    if preset == "trackingnet":
        values = _trackingnet(truth, boxes)
    else:
        values = {"AUC": 100 * success.mean(), "P": 100 * precision[20], "P_norm": 100 * normalised_precision[20]}
    overlaps = _got10k_overlaps(truth, boxes)
    values |= _overlap_scores(overlaps)
    return Scores(
        truth.name,
        len(truth.boxes),
        {key: float(value) for key, value in values.items()},
        success,
        precision,
        normalised_precision,
        overlaps,
    )


def summarise(preset: str, scores: Sequence[Scores]) -> dict[str, float]:
    """FIELDS over all sequences, percent: means over sequences, but AO and SR of the got10k preset over their pooled frames."""
    if not scores:
        raise DatasetError("no sequence has scores")
    mean = {field: _nanmean(np.array([score.values[field] for score in scores])) for field in FIELDS}
    if preset == "got10k":
        mean |= _overlap_scores(np.concatenate([score.overlaps for score in scores]))
    return mean


def mean_curves(scores: Sequence[Scores]) -> dict[str, Floats]:
    """Success, precision and normalised precision, averaged over sequences: what the plots show."""
    names = ("success", "precision", "normalised_precision")
    return {name: np.mean([getattr(score, name) for score in scores], axis=0) for name in names}


def disputed_frames(truth: Truth) -> int:
    """How many frames are valid in the otb preset and invalid in pytracking's: boxes that begin at x = 0 or y = 0, or left of or above it."""
    return int((_valid(truth) & ~_valid(truth, all_four=True)).sum())


def _valid(truth: Truth, all_four: bool = False) -> Flags:
    numbers = truth.boxes if all_four else truth.boxes[:, 2:]
    valid: Flags = np.asarray((numbers > 0).all(axis=1) & np.isfinite(truth.boxes).all(axis=1))
    return valid if truth.absent is None else valid & ~truth.absent


def _errors(truth: Truth, boxes: Floats, valid: Flags, lasot: bool, toolkit_rounding: bool = False) -> tuple[Floats, Floats, Floats]:
    """IoU, centre error in pixels, and centre error over the box's size (both toolkits' `calc_seq_err_robust`), each [N].

    Invalid frames get IoU -1 and an infinite error, so they count as misses. Their normalised error is -1, which counts as a hit: that is
    what the toolkits compute, except for LaSOT's absent frames.
    """
    safe = np.where(valid[:, None], truth.boxes, 1.0)
    offset = centres(boxes) - centres(safe)
    overlap = np.where(valid, iou(boxes, safe, toolkit_rounding), -1.0)
    error = np.where(valid, np.hypot(*offset.T), np.inf)
    normalised = np.where(valid, np.hypot(*(offset / safe[:, 2:]).T), -1.0)
    if lasot and truth.absent is not None:
        normalised[truth.absent] = np.inf
    return overlap, error, normalised


def _trackingnet(truth: Truth, boxes: Floats) -> dict[str, Any]:
    rounded = dataclasses.replace(truth, boxes=np.round(truth.boxes))
    valid = _valid(rounded)
    overlap, error, normalised = _errors(rounded, np.round(boxes), valid, lasot=True)
    normalised[~valid] = np.inf
    curves = {
        "AUC": (overlap[:, None] >= _TRACKINGNET_OVERLAP).mean(0),
        "P": (error[:, None] <= _TRACKINGNET_PIXELS).mean(0),
        "P_norm": (normalised[:, None] <= _TRACKINGNET_NORMALISED).mean(0),
    }
    return {key: 100 * np.trapezoid(curve, dx=1 / 20) for key, curve in curves.items()}


def _got10k_overlaps(truth: Truth, boxes: Floats) -> Floats:
    counted: Flags = np.asarray(np.isfinite(truth.boxes).all(axis=1))
    if truth.covered is not None:
        counted &= truth.covered
    counted[0] = False
    return iou(clip(boxes[counted], truth.image_size), clip(truth.boxes[counted], truth.image_size))


def _overlap_scores(overlaps: Floats) -> dict[str, float]:
    if not len(overlaps):
        return {"AO": float("nan"), "SR_0.5": float("nan"), "SR_0.75": float("nan")}
    return {
        "AO": 100 * float(overlaps.mean()),
        "SR_0.5": 100 * float((overlaps > 0.5).mean()),
        "SR_0.75": 100 * float((overlaps > 0.75).mean()),
    }


def _nanmean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
