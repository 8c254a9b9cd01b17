"""GOT-10k: `{train,val,test}/GOT-10k_*/{00000001.jpg, groundtruth.txt, absence.label, cover.label}` and `list.txt` in each part.

Of a folder with several parts, val is read if it is there, else test, else train; the folder of one part will do as well. `list.txt`
says which sequences belong to it. The test part gives the first frame's box only.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from engine.evaluation.sequences import Broken, Sequence, build, collect, folders, image_files, read_boxes, read_labels

_PARTS = ("val", "test", "train")


def detect(root: Path) -> bool:
    part = _part(root)
    return any(folder.name.startswith("GOT-10k_") or (folder / "cover.label").is_file() for folder in folders(part))


def read(root: Path) -> list[Sequence | Broken]:
    part = _part(root)
    listed = part / "list.txt"
    names = listed.read_text().split() if listed.is_file() else [folder.name for folder in folders(part)]
    return [collect(name, partial(_load, part / name)) for name in names]


def _part(root: Path) -> Path:
    return next((root / name for name in _PARTS if (root / name).is_dir()), root)


def _load(folder: Path) -> Sequence:
    boxes = read_boxes(folder / "groundtruth.txt")
    covered = None
    if (folder / "cover.label").is_file():
        covered = read_labels(folder / "cover.label") > 0
    elif (folder / "absence.label").is_file():
        covered = read_labels(folder / "absence.label") == 0
    return build(folder.name, boxes, image_files(folder), covered=covered)
