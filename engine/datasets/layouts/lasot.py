"""LaSOT and LaSOT_ext: `category/category-N/{img/00000001.jpg, groundtruth.txt, full_occlusion.txt, out_of_view.txt}`.

The folder of one category, or one with the sequences of all categories side by side, will do as well. Where `testing_set.txt` lies in the
folder, its sequences are the data set, and for training all others (in `training_set.txt`, if that is there). A frame is absent if it is
fully occluded or out of view. Copies with one image more than boxes are cut to the boxes, as the benchmark's own toolkit does.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from engine.datasets.sequences import Failure, Sequence, build, collect, folders, image_files
from engine.datasets.text import read_boxes, read_labels, read_names
from engine.errors import DatasetError

_LABELS = ("full_occlusion.txt", "out_of_view.txt")
_LISTS = ("testing_set.txt", "training_set.txt")


def detect(root: Path) -> bool:
    return any((folder / _LABELS[0]).is_file() for folder in _candidates(root))


def read(root: Path, training: bool = False) -> list[Sequence | Failure]:
    found = {folder.name: folder for folder in _candidates(root) if (folder / "groundtruth.txt").is_file() or (folder / "img").is_dir()}
    chosen, others = root / _LISTS[training], root / _LISTS[not training]
    names = list(found)
    if chosen.is_file():
        names = read_names(chosen)
    elif training and others.is_file():
        testing = set(read_names(others))
        names = [name for name in found if name not in testing]
    missing = f"{chosen} names it, but there is no such folder"
    return [collect(name, partial(_load, found[name])) if name in found else Failure(name, missing) for name in names]


def _candidates(root: Path) -> list[Path]:
    level = folders(root)
    return [*level, *(inner for folder in level for inner in folders(folder) if inner.name != "img")]


def _load(folder: Path) -> Sequence:
    images, count = image_files(folder / "img"), len(read_boxes(folder / "groundtruth.txt"))
    absent = np.zeros(count, bool)
    for name in _LABELS:
        values = read_labels(folder / name)
        if len(values) not in (count, min(len(images), count + 1)):
            raise DatasetError(f"{folder.name}: {len(values)} labels in {name} for {count} boxes")
        absent |= values[:count] > 0
    return build(folder.name, folder / "groundtruth.txt", images, spare=1, absent=absent)
