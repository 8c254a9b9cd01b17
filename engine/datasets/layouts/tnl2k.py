"""TNL2K: `SEQ/{imgs/, groundtruth.txt, language.txt}`. The description is not used."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from engine.datasets.sequences import Failure, Sequence, build, collect, folders, image_files


def detect(root: Path) -> bool:
    return any((folder / "imgs").is_dir() for folder in folders(root))


def read(root: Path, training: bool = False) -> list[Sequence | Failure]:
    return [
        collect(folder.name, partial(_load, folder))
        for folder in folders(root)
        if (folder / "imgs").is_dir() or (folder / "groundtruth.txt").is_file()
    ]


def _load(folder: Path) -> Sequence:
    return build(folder.name, folder / "groundtruth.txt", image_files(folder / "imgs"), spare=None)
