"""Own videos: `NAME.mp4` (or another container) beside `NAME.txt` with x,y,w,h a line; one line if only the first frame's box is known."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from engine.datasets.sequences import Failure, Sequence, collect
from engine.datasets.text import read_box_file
from engine.video.listing import video_paths


def detect(root: Path) -> bool:
    return any(path.with_suffix(".txt").is_file() for path in video_paths(root))


def read(root: Path, training: bool = False) -> list[Sequence | Failure]:
    return [collect(path.stem, partial(_load, path)) for path in video_paths(root)]


def _load(path: Path) -> Sequence:
    boxes, polygons = read_box_file(path.with_suffix(".txt"))
    return Sequence(path.stem, boxes, video=path, polygons=polygons)
