"""A sequence of a data set: its frames, its ground truth, and what the labels say of single frames. No PyTorch here."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import DatasetError, EsatError, SourceError
from engine.evaluation.metrics import Flags, Floats, Truth
from engine.video.images import ImageReader
from engine.video.listing import image_paths, natural_key


@dataclasses.dataclass(frozen=True)
class Sequence:
    """One sequence. It holds paths, not pictures, so that it can be sent to a worker process."""

    name: str
    boxes: Floats  # [N, 4] x, y, w, h as they stand in the file; test sets give the first frame's only: [1, 4]
    images: tuple[Path, ...] = ()
    video: Path | None = None  # instead of images
    absent: Flags | None = None  # [N], fully occluded or out of view
    covered: Flags | None = None  # [N], GOT-10k's cover label above 0
    warnings: tuple[str, ...] = ()

    @property
    def frame_count(self) -> int | None:
        """Frames to track; None for a video with a box for its first frame only, whose length is not known without decoding."""
        if self.images:
            return len(self.images)
        return len(self.boxes) if len(self.boxes) > 1 else None

    @property
    def scored(self) -> bool:
        """Whether every frame has a box, so that results can be scored."""
        return self.frame_count == len(self.boxes)

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """The frames, uint8 BGR [H, W, 3], as many as there are boxes where every frame has one. SourceError for damaged ones."""
        if self.video is None:
            read = ImageReader()
            for number, path in enumerate(self.images, 1):
                try:
                    image = read(path)
                except SourceError as error:
                    raise SourceError(f"frame {number}: {error}") from error
                yield image
            return
        from engine.video.files import VideoFile

        wanted, count = self.frame_count, 0
        with VideoFile(self.video) as source:
            for frame in source:
                if frame.index != count:
                    raise SourceError(f"{self.video}: frame {count} is damaged")
                yield frame.image
                count += 1
                if count == wanted:
                    return
        if wanted is not None:
            raise SourceError(f"{self.video}: ends after {count} frames, its ground truth has {wanted} boxes")

    def image_size(self) -> tuple[int, int]:
        """Width and height of the first frame."""
        height, width = next(self.frames()).shape[:2]
        return width, height

    def truth(self) -> Truth:
        """The ground truth for the metrics."""
        return Truth(self.name, self.boxes, self.image_size(), self.absent, self.covered)


@dataclasses.dataclass(frozen=True)
class Broken:
    """A sequence that cannot be used, and why."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What a folder holds: usable sequences and broken ones, by name."""

    root: Path
    layout: str
    sequences: tuple[Sequence, ...]
    broken: tuple[Broken, ...]


def collect(name: str, load: Callable[[], Sequence]) -> Sequence | Broken:
    """The sequence, or why it cannot be used: one bad sequence must not hide the others."""
    try:
        return load()
    except EsatError as error:
        return Broken(name, str(error))


def build(
    name: str,
    boxes: Floats,
    images: tuple[Path, ...],
    strict: bool = True,
    absent: Flags | None = None,
    covered: Flags | None = None,
) -> Sequence:
    """A sequence of images, its lengths checked: as many boxes as images, or one box for the first frame (test sets).

    strict=False: images beyond the last box are left out, with a warning (OTB's Football1, Freeman3 and others are made so).
    DatasetError for other lengths and for a first box without area.
    """
    warnings: tuple[str, ...] = ()
    if len(boxes) > len(images):
        raise DatasetError(f"{name}: {len(boxes)} boxes for {len(images)} images: images are missing")
    if 1 < len(boxes) < len(images):
        if strict:
            raise DatasetError(f"{name}: {len(boxes)} boxes for {len(images)} images")
        warnings = (f"{len(images)} images, {len(boxes)} boxes: the last {len(images) - len(boxes)} images are left out",)
        images = images[: len(boxes)]
    for kind, flags in (("occlusion or absence", absent), ("cover", covered)):
        if flags is not None and len(flags) != len(boxes):
            raise DatasetError(f"{name}: {len(flags)} {kind} labels for {len(boxes)} boxes")
    check_first_box(name, boxes)
    return Sequence(name, boxes, images, absent=absent, covered=covered, warnings=warnings)


def check_first_box(name: str, boxes: Floats) -> None:
    """DatasetError unless a tracker can start from the first box."""
    if not (np.isfinite(boxes[0]).all() and (boxes[0, 2:] > 0).all()):
        raise DatasetError(f"{name}: the first box must be finite and have an area, got {boxes[0].tolist()}")


def image_files(folder: Path) -> tuple[Path, ...]:
    """The images of a folder in natural order (0.jpg, 1.jpg, .., 10.jpg). DatasetError if there is none."""
    if not folder.is_dir():
        raise DatasetError(f"no folder {folder}")
    paths = image_paths(folder)
    if not paths:
        raise DatasetError(f"no images in {folder}")
    return tuple(paths)


def folders(root: Path) -> list[Path]:
    """The folders in `root`, in natural order."""
    return sorted(
        (entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")), key=lambda p: natural_key(p.name)
    )


def read_boxes(path: Path) -> Floats:
    """Boxes [N, 4] from a text file, one a line, separated by commas, tabs, semicolons or spaces; NaN stands for no box.

    DatasetError, with the line, for anything else.
    """
    rows = []
    for number, line in enumerate(_lines(path), 1):
        fields = [field for field in re.split(r"[,;\s]+", line.strip()) if field]
        try:
            row = [float(field) for field in fields]
        except ValueError as error:
            raise DatasetError(f"{path}, line {number}: expected x,y,w,h, got {line.strip()[:60]!r}") from error
        if len(row) != 4 or any(math.isinf(value) for value in row):
            raise DatasetError(f"{path}, line {number}: expected four finite numbers x,y,w,h, got {line.strip()[:60]!r}")
        rows.append(row)
    if not rows:
        raise DatasetError(f"{path}: holds no boxes")
    return np.array(rows)


def read_labels(path: Path) -> Floats:
    """Numbers [N] from a label file: one a line (GOT-10k) or all in one line, separated by commas (LaSOT). DatasetError."""
    try:
        return np.array([float(field) for line in _lines(path) for field in re.split(r"[,;\s]+", line.strip()) if field])
    except ValueError as error:
        raise DatasetError(f"{path}: expected numbers, {error}") from error


def _lines(path: Path) -> list[str]:
    """The file's lines without empty ones at its end."""
    try:
        return path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise DatasetError(f"cannot read {path}: {reason}") from error
