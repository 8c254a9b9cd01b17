"""NfS (Need for Speed), as it is published: `SEQ/30/{SEQ.txt, SEQ/00001.jpg}`, else `SEQ/240/...`; and as pytracking's users keep it:
`sequences/SEQ/00001.jpg` and `anno/nfs_SEQ.txt` or `anno/SEQ.txt` (x, y, w, h).

The published lines are `track x1 y1 x2 y2 frame lost occluded generated "label"`, one for each frame at 240 frames a second: the images of
30 a second belong to every eighth of them. Published lengths differ by one here and there; both are cut to the shorter, as the got10k toolkit
does it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from engine.datasets.sequences import Failure, Sequence, build, collect, files, fit, folders, image_files
from engine.datasets.text import Floats, read_words
from engine.errors import DatasetError

_RATES = ("30", "240")


def detect(root: Path) -> bool:
    return bool(_published(root) or _kept(root))


def read(root: Path, training: bool = False) -> list[Sequence | Failure]:
    if found := _published(root):
        return [collect(path.stem, partial(_load, path)) for path in found]
    return [collect(name, partial(_load_kept, name, truth, images)) for name, (truth, images) in _kept(root).items()]


def _published(root: Path) -> list[Path]:
    """The files of boxes, of one rate for each sequence."""
    candidates = [[folder / rate / f"{folder.name}.txt" for rate in _RATES] for folder in folders(root)]
    return [next(path for path in paths if path.is_file()) for paths in candidates if any(path.is_file() for path in paths)]


def _kept(root: Path) -> dict[str, tuple[Path, Path]]:
    """Sequence name -> its file of boxes and its folder of images."""
    found = {}
    for truth in files(root / "anno", "*.txt"):
        images = root / "sequences" / truth.stem.removeprefix("nfs_")
        if images.is_dir():
            found[truth.stem] = (truth, images)
    return found


def _load_kept(name: str, truth: Path, images: Path) -> Sequence:
    return build(name, truth, image_files(images), spare=None)


def _load(truth: Path) -> Sequence:
    images, boxes = image_files(truth.parent / truth.stem), _read(truth)
    if abs(len(boxes) / len(images) - 8) < 1:
        boxes = boxes[::8]
    if len(boxes) == len(images) + 1:
        boxes = boxes[:-1]
    return fit(Sequence(truth.stem, boxes, images), spare=1)


def _read(path: Path) -> Floats:
    try:
        corners = np.array([[float(field) for field in words[1:5]] for words in read_words(path)])
    except ValueError as error:
        raise DatasetError(f"{path}: expected lines of `track x1 y1 x2 y2 ...`: {error}") from error
    if corners.ndim != 2 or corners.shape[1] != 4 or not np.isfinite(corners).all():
        raise DatasetError(f"{path}: expected lines of `track x1 y1 x2 y2 ...` with finite numbers")
    return np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
