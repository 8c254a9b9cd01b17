"""Validation by the real tracker: mean AUC (OTB preset) of averaged weights on a folder of sequences NAME/{img/*, groundtruth.txt}."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from engine.errors import DatasetError
from engine.evaluation import metrics
from engine.tracking.tracker import Tracker
from engine.training.sources import read_boxes
from engine.weights.io import load_weights


def sequences(folder: Path, frames: int | None = None) -> dict[str, tuple[list[Path], np.ndarray]]:
    """Name -> frame files and boxes [n, 4] of every sequence, cut to `frames`. DatasetError if there is none."""
    found = {}
    for truth in sorted(folder.glob("*/groundtruth.txt")):
        boxes = read_boxes(truth)[:frames]
        found[truth.parent.name] = (sorted((truth.parent / "img").iterdir())[: len(boxes)], boxes)
    if not found:
        raise DatasetError(f"no sequences in {folder}: expected NAME/img/*.jpg and NAME/groundtruth.txt")
    return found


def validate(weights: str | Path, folder: str | Path, device: str = "auto", frames: int | None = None) -> dict[str, float]:
    """AUC of each sequence in percent, and their mean under "mean". `frames`: only so many of each sequence."""
    tracker = Tracker(load_weights(weights), device=device)
    scores = {}
    for name, (files, boxes) in sequences(Path(folder), frames).items():
        found = []
        for index, file in enumerate(files):
            image = cv2.imread(str(file), cv2.IMREAD_COLOR)
            if image is None:
                raise DatasetError(f"cannot read the frame {file}")
            if index == 0:
                tracker.init(image, tuple(boxes[0]))
            found.append(boxes[0] if index == 0 else tracker.update(image).box)
        scores[name] = metrics.evaluate("otb", metrics.Truth(name, boxes), np.array(found)).values["AUC"]
    return scores | {"mean": float(np.mean(list(scores.values())))}
