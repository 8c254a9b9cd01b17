"""Public data sets as training material: clips in any layout of `engine.datasets`, and COCO (stills). Pictures are read when they are drawn."""

from __future__ import annotations

import collections.abc
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import overload

import numpy as np

from engine.datasets.layouts import LAYOUTS, open_dataset
from engine.datasets.sequences import Sequence
from engine.errors import ConfigError, DatasetError, SourceError
from engine.training.sources import Clip, Pool, Still, usable
from engine.video.images import ImageReader

CLIP_LAYOUTS = tuple(name for name in LAYOUTS if name != "video")  # their frames are image files


class Pictures(collections.abc.Sequence[np.ndarray]):
    """Picture files as a sequence of arrays, read one by one when asked for."""

    def __init__(self, files: collections.abc.Sequence[Path], read: ImageReader | None = None):
        self.files = files
        self._read = read or ImageReader(files[0] if files else None)

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> Pictures: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | Pictures:
        if isinstance(index, slice):
            return Pictures(self.files[index], self._read)
        try:
            return self._read(self.files[index])
        except SourceError as error:
            raise DatasetError(f"cannot read the picture {self.files[index]}: {error}") from error


def clips(folder: Path, layout: str) -> tuple[list[Clip], tuple[str, ...]]:
    """The sequences of a data set with two usable boxes or more, without the boxes of frames in which the target is hidden; and what to know.

    DatasetError if the folder does not follow the layout. Sequences that cannot be used are left out, and counted in what to know.
    """
    dataset = open_dataset(folder, layout, training=True)
    notes = [f"{layout}: {note}" for note in dataset.notes]
    if dataset.broken:
        first = dataset.broken[0]
        notes.append(f"{layout}: {len(dataset.broken)} of {dataset.found} sequences left out, the first is {first.name}: {first.reason}")
    return [clip for clip in map(_clip, dataset.sequences) if len(clip.valid) >= 2], tuple(notes)


def _clip(sequence: Sequence) -> Clip:
    boxes = sequence.boxes.copy()
    if sequence.absent is not None:
        boxes[sequence.absent] = np.nan
    if sequence.covered is not None:
        boxes[~sequence.covered] = np.nan
    return Clip(Pictures(sequence.images), boxes)


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


def read_layouts(folders: Mapping[str, str | Path]) -> Pool:
    """Layout -> folder, each a group of the pool under the layout's name. ConfigError for other names, DatasetError for empty folders."""
    stills: dict[str, list[Still]] = {}
    found: dict[str, list[Clip]] = {}
    notes: tuple[str, ...] = ()
    for name, path in folders.items():
        folder = Path(path)
        if name == "coco":
            stills[name] = list(coco(folder))
        elif name in CLIP_LAYOUTS:
            found[name], more = clips(folder, name)
            notes += more
        else:
            raise ConfigError(f"unknown data layout {name!r}: expected one of coco, {', '.join(CLIP_LAYOUTS)}")
        if not (stills.get(name) or found.get(name)):
            what = coco.__doc__ if name == "coco" else "no sequence with two usable boxes; " + "; ".join(notes)
            raise DatasetError(f"nothing in {folder} follows the layout {name}: {what}")
    return Pool(stills, found, notes)
