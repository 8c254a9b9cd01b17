"""The text files of data sets: boxes, labels, lists of names. Each has one reader, for evaluation and training alike."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.errors import DatasetError
from engine.files import PendingFile

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_NO_BOX = [math.nan] * 4


class BoxFile(NamedTuple):
    """boxes [N, 4] x, y, w, h in pixels, NaN where there is none; polygons: whether a line was one."""

    boxes: Floats
    polygons: bool


def read_boxes(path: Path) -> Floats:
    """Boxes [N, 4] of a text file: `read_box_file` without what else is known."""
    return read_box_file(path).boxes


def read_box_file(path: Path) -> BoxFile:
    """One box a line: x, y, w, h in pixels, separated by commas, tabs, semicolons or spaces.

    A line that is empty or says only nan has no box; empty lines at the end of the file do not count. Eight numbers are a polygon
    x1, y1 .. x4, y4, which becomes its axis-aligned bounding box: from the least to the greatest x and y (VOT toolkit: `Rectangle.convert`).
    DatasetError, with the line, for anything else, and for boxes that are fractions of the image.
    """
    rows, polygons = [], False
    for number, line in enumerate(_lines(path), 1):
        row = _numbers(line)
        if row is None:
            raise DatasetError(f"{path}, line {number}: expected x,y,w,h, got {line.strip()[:60]!r}")
        if all(math.isnan(value) for value in row):
            row = _NO_BOX
        elif len(row) == 8 and all(map(math.isfinite, row)):
            row, polygons = _bounding_box(row), True
        if len(row) != 4 or any(math.isinf(value) for value in row):
            hint = ": five or more are a frame's number or a score beside the box?" if len(row) in (5, 6, 7) else ""
            raise DatasetError(f"{path}, line {number}: expected four finite numbers x,y,w,h, got {line.strip()[:60]!r}{hint}")
        rows.append(row)
    if not rows:
        raise DatasetError(f"{path}: holds no boxes")
    boxes = np.array(rows)
    if _are_fractions(boxes):
        raise DatasetError(f"{path}: the boxes look like fractions of the image, all from 0 to 1: expected x,y,w,h in pixels")
    return BoxFile(boxes, polygons)


def write_boxes(path: Path, boxes: Floats) -> None:
    """Boxes [N, 4] as `read_boxes` takes them, to a hundredth of a pixel. SinkError."""
    lines = (",".join(f"{value:.2f}" for value in box) if np.isfinite(box).all() else "nan" for box in boxes)
    with PendingFile(path) as pending:
        pending.partial.write_text("\n".join(lines) + "\n")


def look_like_corners(boxes: Floats, width: int, height: int) -> bool:
    """Whether boxes [N, 4] were probably meant as x1, y1, x2, y2: all make sense so in the image, most do not as x, y, w, h."""
    known = boxes[np.isfinite(boxes).all(axis=1) & (boxes != 0).any(axis=1)]
    if not len(known):
        return False
    ordered = (known[:, 2:] > known[:, :2]).all() and (known >= -1).all() and (known[:, 2:] <= (width + 1, height + 1)).all()
    beyond = (known[:, :2] + known[:, 2:] > (1.1 * width, 1.1 * height)).any(axis=1)
    return bool(ordered and beyond.mean() > 0.5)


def read_labels(path: Path) -> Floats:
    """Numbers [N] from a label file: one a line (GOT-10k) or all in one line, separated by commas (LaSOT). DatasetError."""
    numbers = [_numbers(line) for line in _lines(path)]
    if None in numbers:
        raise DatasetError(f"{path}: expected numbers, got {_lines(path)[numbers.index(None)].strip()[:60]!r}")
    return np.array([number for row in numbers if row is not None for number in row])


def read_names(path: Path) -> list[str]:
    """The names in a list, one a line; they may hold spaces. DatasetError."""
    return [line.strip() for line in _lines(path) if line.strip()]


def read_words(path: Path) -> list[list[str]]:
    """The words of each line that has some. DatasetError."""
    return [words for line in _lines(path) if (words := line.split())]


def _numbers(line: str) -> list[float] | None:
    try:
        return [float(field) for field in re.split(r"[,;\s]+", line.strip()) if field]
    except ValueError:
        return None


def _bounding_box(polygon: list[float]) -> list[float]:
    xs, ys = polygon[0::2], polygon[1::2]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _are_fractions(boxes: Floats) -> bool:
    known = boxes[np.isfinite(boxes).all(axis=1) & (boxes != 0).any(axis=1)]
    return bool(len(known) and (known >= 0).all() and (known <= 1).all() and (known != np.round(known)).any())


def _lines(path: Path) -> list[str]:
    """The file's lines without empty ones at its end, and without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise DatasetError(f"cannot read {path}: {reason}") from error
