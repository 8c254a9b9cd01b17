"""Boxes for unlabelled clips: a tracker follows chosen objects in both directions of time, and only what agrees forwards and backwards is kept.

    python -m engine.training.pseudo configs/pseudo_starts.csv VIDEOS OUT --tracker nanotrack.py

The file of starts has the columns clip, frame, x, y, w, h (pixels of a 640-pixel-wide frame). `--tracker` is a Python file with a class of the
interface `Class(image, box)` and `update(image) -> box`; OUT receives NAME.K.txt, one x,y,w,h a frame in the video's pixels, `nan` where unsure.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.evaluation.metrics import iou
from engine.training.follow import Follow, harness
from engine.training.sources import read_video

_SEGMENT = 40  # frames between two checks
_AGREEMENT = 0.65  # IoU of the way there and the way back for a frame to be kept
_RETURN = 0.5  # IoU at the segment's first frame below which the track ends
_WIDTH = 640


def consistent_track(frames: Sequence[np.ndarray], box: np.ndarray, follow: Follow) -> np.ndarray:
    """Boxes of the object at `box` in frames[0] for every frame [n, 4], NaN where forward and backward tracks disagree and after a loss.

    Segment by segment the object is followed from its first box and, from the segment's last box, back again.
    """
    boxes = np.full((len(frames), 4), np.nan)
    boxes[0] = box
    there = follow(frames, box)
    for start in range(0, len(frames) - 1, _SEGMENT):
        stop = min(start + _SEGMENT + 1, len(frames))
        back = follow(frames[start:stop][::-1], there[stop - 1])[::-1]
        agreement = iou(there[start:stop], back)
        if agreement[0] < _RETURN:
            break
        keep = np.flatnonzero(agreement >= _AGREEMENT)
        boxes[start + keep] = ((there[start:stop] + back) / 2)[keep]
    return boxes


def label(frames: Sequence[np.ndarray], index: int, box: np.ndarray, follow: Follow) -> np.ndarray:
    """`consistent_track` from frame `index` to both ends of the clip."""
    after = consistent_track(frames[index:], box, follow)
    before = consistent_track(frames[: index + 1][::-1], box, follow)[::-1]
    return np.concatenate([before[:-1], after])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Label clips by tracking in both directions of time")
    parser.add_argument("starts", type=Path)
    parser.add_argument("videos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tracker", type=Path, required=True)
    options = parser.parse_args(arguments)
    follow = harness(options.tracker)
    options.out.mkdir(parents=True, exist_ok=True)
    with options.starts.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for clip in sorted({row["clip"] for row in rows}):
        frames, factor = read_video(options.videos / f"{clip}.mp4", _WIDTH)
        for number, row in enumerate(row for row in rows if row["clip"] == clip):
            box = np.array([float(row[key]) for key in ("x", "y", "w", "h")])
            boxes = label(frames, min(int(row["frame"]), len(frames) - 1), box, follow)
            lines = (",".join(f"{value:.2f}" for value in line / factor) if np.isfinite(line).all() else "nan" for line in boxes)
            (options.out / f"{clip}.{number}.txt").write_text("\n".join(lines) + "\n")
            print(f"{clip}.{number}: {np.isfinite(boxes).all(1).sum()} of {len(frames)} frames", flush=True)


if __name__ == "__main__":
    main()
