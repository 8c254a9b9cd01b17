"""Public data sets as training material: LaSOT, GOT-10k, TrackingNet (clips of image files) and COCO (stills), read when they are drawn."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

import cv2
import numpy as np

from engine.errors import ConfigError, DatasetError
from engine.training.sources import Clip, Pool, Still, read_boxes, usable


def read_picture(path: Path) -> np.ndarray:
    """uint8 BGR [H, W, 3]; DatasetError if it cannot be read."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DatasetError(f"cannot read the picture {path}")
    return image


class Pictures(Sequence[np.ndarray]):
    """Picture files as a sequence of arrays, read one by one when asked for."""

    def __init__(self, files: Sequence[Path]):
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> Pictures: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | Pictures:
        return Pictures(self.files[index]) if isinstance(index, slice) else read_picture(self.files[index])


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DatasetError(f"expected a folder of pictures at {folder}")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))


def _clip(files: Sequence[Path], boxes: np.ndarray, *flag_files: Path) -> Clip:
    """A clip without the boxes of frames that one of the flag files (numbers between commas or lines) marks."""
    count = min(len(files), len(boxes))
    boxes = boxes[:count].copy()
    for path in flag_files:
        if path.is_file():
            flags = np.array([int(field) for field in path.read_text().replace(",", " ").split()][:count])
            boxes[np.flatnonzero(flags)] = np.nan
    return Clip(Pictures(files[:count]), boxes)


def lasot(folder: Path) -> Iterator[Clip]:
    """CLASS/CLASS-N/{img, groundtruth.txt, full_occlusion.txt, out_of_view.txt}, or without the CLASS level."""
    for truth in sorted({*folder.glob("*/groundtruth.txt"), *folder.glob("*/*/groundtruth.txt")}):
        place = truth.parent
        yield _clip(_images(place / "img"), read_boxes(truth), place / "full_occlusion.txt", place / "out_of_view.txt")


def got10k(folder: Path) -> Iterator[Clip]:
    """NAME/{00000001.jpg ..., groundtruth.txt, absence.label}."""
    for truth in sorted(folder.glob("*/groundtruth.txt")):
        yield _clip(_images(truth.parent), read_boxes(truth), truth.parent / "absence.label")


def trackingnet(folder: Path) -> Iterator[Clip]:
    """TRAIN_N/{anno/NAME.txt, frames/NAME/K.jpg}; frames are ordered by their number."""
    for truth in sorted(folder.glob("TRAIN_*/anno/*.txt")):
        files = sorted(_images(truth.parent.parent / "frames" / truth.stem), key=lambda path: int(path.stem))
        yield _clip(files, read_boxes(truth))


def coco(folder: Path) -> Iterator[Still]:
    """annotations/instances_*.json and the pictures in the folder of the same name (train2017, val2017); crowds are left out."""
    for table in sorted(folder.glob("annotations/instances_*.json")):
        content = json.loads(table.read_text())
        rows: dict[int, list[tuple[float, ...]]] = {}
        for item in content["annotations"]:
            if not item.get("iscrowd"):
                rows.setdefault(item["image_id"], []).append((*item["bbox"], item["category_id"]))
        kept = [image for image in content["images"] if image["id"] in rows]
        pictures = Pictures([folder / table.stem.removeprefix("instances_") / image["file_name"] for image in kept])
        for index, image in enumerate(kept):
            boxes = np.array(rows[image["id"]], dtype=float)
            boxes = boxes[usable(boxes[:, :4])]
            if len(boxes):
                yield Still(pictures, index, boxes[:, :4], boxes[:, 4].astype(int))


CLIPS: dict[str, Callable[[Path], Iterator[Clip]]] = {"lasot": lasot, "got10k": got10k, "trackingnet": trackingnet}


def read_layouts(folders: Mapping[str, str | Path]) -> Pool:
    """Layout -> folder, each a group of the pool under the layout's name. ConfigError for other names, DatasetError for empty folders."""
    stills: dict[str, list[Still]] = {}
    clips: dict[str, list[Clip]] = {}
    for name, place in folders.items():
        folder = Path(place)
        if name == "coco":
            stills[name] = list(coco(folder))
        elif name in CLIPS:
            clips[name] = [clip for clip in CLIPS[name](folder) if len(clip.valid) >= 2]
        else:
            raise ConfigError(f"unknown data layout {name!r}: expected one of coco, {', '.join(CLIPS)}")
        if not (stills.get(name) or clips.get(name)):
            raise DatasetError(f"nothing in {folder} follows the layout {name}: {(coco if name == 'coco' else CLIPS[name]).__doc__}")
    return Pool(stills, clips)
