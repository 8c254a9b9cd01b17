"""OTB-like: `SEQ/{img/, groundtruth.txt or groundtruth_rect.txt}`. The boxes are used as they stand in the file (OTB's own start at 1).

OTB's sequences with two targets have `groundtruth_rect.1.txt` and `groundtruth_rect.2.txt` and become SEQ_1 and SEQ_2, as pytracking
names them. In OTB's David the boxes belong to the frames from 300 on.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from engine.evaluation.sequences import Broken, Sequence, build, collect, folders, image_files, read_boxes

_TRUTH_NAMES = ("groundtruth.txt", "groundtruth_rect.txt")
_FIRST_FRAME = {("David", 770, 471): 300}  # name, images, boxes -> first frame, counted from 1


def detect(root: Path) -> bool:
    return any(_truths(folder) and (folder / "img").is_dir() for folder in (root, *folders(root)))


def read(root: Path) -> list[Sequence | Broken]:
    candidates = [root] if _truths(root) else folders(root)
    return [
        collect(name, partial(_load, name, folder, truth))
        for folder in candidates
        if (folder / "img").is_dir() or _truths(folder)
        for name, truth in (_truths(folder) or {folder.name: folder / _TRUTH_NAMES[0]}).items()
    ]


def _truths(folder: Path) -> dict[str, Path]:
    """Sequence name -> ground truth file."""
    for name in _TRUTH_NAMES:
        if (folder / name).is_file():
            return {folder.name: folder / name}
    numbered = sorted(folder.glob("groundtruth_rect.[0-9].txt"))
    return {f"{folder.name}_{path.name.split('.')[1]}": path for path in numbered}


def _load(name: str, folder: Path, truth: Path) -> Sequence:
    boxes = read_boxes(truth)
    images = image_files(folder / "img" if (folder / "img").is_dir() else folder)
    first = _FIRST_FRAME.get((folder.name, len(images), len(boxes)), 1)
    return build(name, boxes, images[first - 1 :], strict=False)
