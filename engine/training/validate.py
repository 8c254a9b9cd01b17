"""Validation by the real tracker: mean AUC (OTB preset) of averaged weights on a folder of sequences NAME/{img/*, groundtruth.txt}.

By the public loop: the default one's thresholds are calibrated for the weights that are shipped, not for those in training.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from engine.datasets.layouts import open_dataset
from engine.datasets.sequences import Sequence
from engine.errors import DatasetError
from engine.evaluation import metrics
from engine.evaluation.report import truth_of
from engine.evaluation.tracking import track
from engine.tracking.config import TrackerConfig
from engine.tracking.tracker import Tracker
from engine.weights.io import load_weights


def sequences(folder: str | Path, frames: int | None = None) -> list[Sequence]:
    """The sequences of a folder, cut to `frames`. DatasetError if there is none, or one that cannot be used."""
    dataset = open_dataset(folder, "otb")
    if dataset.broken:
        raise DatasetError(dataset.broken[0].reason)
    return [dataclasses.replace(one, boxes=one.boxes[:frames], images=one.images[:frames]) for one in dataset.sequences]


def validate(weights: str | Path, folder: str | Path, device: str = "auto", frames: int | None = None) -> dict[str, float]:
    """AUC of each sequence in percent, and their mean under "mean". `frames`: only so many of each sequence."""
    tracker = Tracker(load_weights(weights), device=device, config=TrackerConfig(loop="public"))
    scores = {}
    for sequence in sequences(folder, frames):
        boxes = track(sequence, tracker).boxes
        scores[sequence.name] = metrics.evaluate("otb", truth_of(sequence), boxes).values["AUC"]
    return scores | {"mean": float(np.mean(list(scores.values())))}
