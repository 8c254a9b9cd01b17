"""GOT-10k: `{train,val,test}/GOT-10k_*/{00000001.jpg, groundtruth.txt, absence.label, cover.label}` and `list.txt` in each part.

Of a folder with several parts, val is read if it is there, else test, else train (for training: train); the folder of one part will do as
well. `list.txt` says which sequences belong to it, one name a line. The test part gives the first frame's box only.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from engine.datasets.sequences import Failure, Sequence, build, collect, folders, image_files
from engine.datasets.text import read_labels, read_names

_PARTS = ("val", "test", "train")
_TRAINING_PARTS = ("train",)


def detect(root: Path) -> bool:
    part = _part(root, _PARTS)
    return any(folder.name.startswith("GOT-10k_") or (folder / "cover.label").is_file() for folder in folders(part))


def read(root: Path, training: bool = False) -> list[Sequence | Failure]:
    part = _part(root, _TRAINING_PARTS if training else _PARTS)
    listed = part / "list.txt"
    names = read_names(listed) if listed.is_file() else [folder.name for folder in folders(part)]
    return [collect(name, partial(_load, part / name)) for name in names]


def _part(root: Path, parts: tuple[str, ...]) -> Path:
    return next((root / name for name in parts if (root / name).is_dir()), root)


def _load(folder: Path) -> Sequence:
    covered = None
    if (folder / "cover.label").is_file():
        covered = read_labels(folder / "cover.label") > 0
    elif (folder / "absence.label").is_file():
        covered = read_labels(folder / "absence.label") == 0
    return build(folder.name, folder / "groundtruth.txt", image_files(folder), covered=covered)
