"""OTB-like: `SEQ/{img/, groundtruth.txt or groundtruth_rect.txt}`. The boxes are used as they stand in the file (OTB's own start at 1).

VOT's folders are read too: `SEQ/{00000001.jpg or color/00000001.jpg, groundtruth.txt}`, boxes or polygons. OTB's sequences with two targets
have `groundtruth_rect.1.txt` and `groundtruth_rect.2.txt` and become SEQ_1 and SEQ_2, as pytracking names them. In some of OTB's sequences
the boxes belong to a part of the images.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from engine.datasets.sequences import Failure, Sequence, collect, fit, folders, image_files
from engine.datasets.text import read_box_file

_TRUTH_NAMES = ("groundtruth.txt", "groundtruth_rect.txt")
_IMAGE_FOLDERS = ("img", "color")
# The numbers of the first and last image that has a box, by OTB's page and the public toolkits' tables.
_FRAMES = {
    "BlurCar1": (247, 988),
    "BlurCar3": (3, 359),
    "BlurCar4": (18, 397),
    "David": (300, 770),
    "Diving": (1, 215),
    "Football1": (1, 74),
    "Freeman3": (1, 460),
    "Freeman4": (1, 283),
    "Tiger1": (1, 354),
}
_OMITTED = {"Tiger1": 5}  # boxes at the beginning that the toolkits leave out: the target is not yet whole there


def detect(root: Path) -> bool:
    return any(_truths(folder) and (_images(folder) != folder or any(folder.glob("*.jpg"))) for folder in (root, *folders(root)))


def read(root: Path, training: bool = False) -> list[Sequence | Failure]:
    candidates = [root] if _truths(root) else folders(root)
    return [
        collect(name, partial(_load, name, folder, truth))
        for folder in candidates
        if _images(folder) != folder or _truths(folder)
        for name, truth in (_truths(folder) or {folder.name: folder / _TRUTH_NAMES[0]}).items()
    ]


def _images(folder: Path) -> Path:
    return next((folder / name for name in _IMAGE_FOLDERS if (folder / name).is_dir()), folder)


def _truths(folder: Path) -> dict[str, Path]:
    """Sequence name -> ground truth file."""
    for name in _TRUTH_NAMES:
        if (folder / name).is_file():
            return {folder.name: folder / name}
    numbered = sorted(folder.glob("groundtruth_rect.[0-9].txt"))
    return {f"{folder.name}_{path.name.split('.')[1]}": path for path in numbered}


def _load(name: str, folder: Path, truth: Path) -> Sequence:
    boxes, polygons = read_box_file(truth)
    images = image_files(_images(folder))
    warnings: tuple[str, ...] = ()
    first, last = _FRAMES.get(folder.name, (1, 0))
    if len(boxes) == last - first + 1:
        images = _between(images, first, last)
        if omitted := _OMITTED.get(folder.name, 0):
            boxes, images = boxes[omitted:], images[omitted:]
            warnings = (f"begins with frame {first + omitted}, as in the public toolkits",)
    return fit(Sequence(name, boxes, images, polygons=polygons, warnings=warnings), spare=None)


def _between(images: tuple[Path, ...], first: int, last: int) -> tuple[Path, ...]:
    """The images with these numbers as their names; all of them where names are no numbers, or not that many."""
    numbered = tuple(path for path in images if path.stem.isdecimal() and first <= int(path.stem) <= last)
    return numbered if len(numbered) == last - first + 1 else images
