"""Own videos: `NAME.mp4` (or another container) beside `NAME.txt` with x,y,w,h a line; one line if only the first frame's box is known."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from engine.evaluation.sequences import Broken, Sequence, check_first_box, collect, read_boxes
from engine.video.listing import video_paths


def detect(root: Path) -> bool:
    return any(path.with_suffix(".txt").is_file() for path in video_paths(root))


def read(root: Path) -> list[Sequence | Broken]:
    return [collect(path.stem, partial(_load, path)) for path in video_paths(root)]


def _load(path: Path) -> Sequence:
    boxes = read_boxes(path.with_suffix(".txt"))
    check_first_box(path.stem, boxes)
    return Sequence(path.stem, boxes, video=path)
