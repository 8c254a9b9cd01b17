"""LaSOT and LaSOT_ext: `category/category-N/{img/00000001.jpg, groundtruth.txt, full_occlusion.txt, out_of_view.txt}`.

The folder of one category, or one with the sequences of all categories side by side, will do as well. Where `testing_set.txt` lies in the
folder, its sequences are the data set. A frame is absent if it is fully occluded or out of view.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from engine.errors import DatasetError
from engine.evaluation.sequences import Broken, Sequence, build, collect, folders, image_files, read_boxes, read_labels

_LABELS = ("full_occlusion.txt", "out_of_view.txt")


def detect(root: Path) -> bool:
    return any((folder / _LABELS[0]).is_file() for folder in _candidates(root))


def read(root: Path) -> list[Sequence | Broken]:
    found = {folder.name: folder for folder in _candidates(root) if (folder / "groundtruth.txt").is_file() or (folder / "img").is_dir()}
    chosen = root / "testing_set.txt"
    names = chosen.read_text().split() if chosen.is_file() else list(found)
    missing = f"{chosen} names it, but there is no such folder"
    return [collect(name, partial(_load, found[name])) if name in found else Broken(name, missing) for name in names]


def _candidates(root: Path) -> list[Path]:
    level = folders(root)
    return [*level, *(inner for folder in level for inner in folders(folder) if inner.name != "img")]


def _load(folder: Path) -> Sequence:
    boxes = read_boxes(folder / "groundtruth.txt")
    labels = [read_labels(folder / name) for name in _LABELS]
    for name, values in zip(_LABELS, labels, strict=True):
        if len(values) != len(boxes):
            raise DatasetError(f"{folder.name}: {len(values)} labels in {name} for {len(boxes)} boxes")
    return build(folder.name, boxes, image_files(folder / "img"), absent=(labels[0] > 0) | (labels[1] > 0))
