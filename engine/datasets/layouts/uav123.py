"""UAV123: `data_seq/UAV123/SEQ/000001.jpg` and `anno/UAV123/SEQ.txt`. Several sequences may be parts of one folder of images: SEQ_1, SEQ_2."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from engine.datasets.sequences import Failure, Sequence, build, collect, files, image_files
from engine.errors import DatasetError

# Folder of images -> the numbers of the images with which its parts begin (the benchmark's configSeqs.m).
_STARTS = {
    "bird1": (1, 775, 1573),
    "car1": (1, 751, 1627),
    "car6": (1, 487, 1807, 2953, 3925),
    "car8": (1, 1357),
    "car16": (1, 415),
    "group1": (1, 1333, 2515, 3925),
    "group2": (1, 907, 1771),
    "group3": (1, 1567, 2827, 4369),
    "person2": (1, 1189),
    "person4": (1, 1501),
    "person5": (1, 877),
    "person7": (1, 1249),
    "person8": (1, 1075),
    "person12": (1, 601),
    "person14": (1, 847, 1813),
    "person17": (1, 1501),
    "person19": (1, 1243, 2791),
    "truck4": (1, 577),
    "uav1": (1, 1555, 2473),
}


def detect(root: Path) -> bool:
    return bool(_truths(root, "UAV123"))


def read(root: Path, training: bool = False) -> list[Sequence | Failure]:
    return read_version(root, "UAV123")


def read_version(root: Path, version: str) -> list[Sequence | Failure]:
    """The sequences that `anno/VERSION` names: UAV123, or UAV20L, whose sequences are whole folders of the same images."""
    return [collect(path.stem, partial(_load, path, root / "data_seq" / "UAV123")) for path in _truths(root, version)]


def _truths(root: Path, version: str) -> list[Path]:
    return files(root / "anno" / version, "*.txt")


def _load(truth: Path, images: Path) -> Sequence:
    name = truth.stem
    if (images / name).is_dir():
        return build(name, truth, image_files(images / name), spare=None)
    folder, _, part = name.rpartition("_")
    starts = _STARTS.get(folder, ())
    if not (part.isdecimal() and 1 <= int(part) <= len(starts)):
        raise DatasetError(f"{name}: no folder {images / name}, and no part of another that is known")
    return build(name, truth, image_files(images / folder)[starts[int(part) - 1] - 1 :], spare=None)
