"""A sequence of a data set: its frames, its ground truth, and what the labels say of single frames. No PyTorch here."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.datasets.text import Flags, Floats, read_box_file
from engine.errors import DatasetError, EsatError, EsatWarning, SourceError
from engine.video.images import ImageReader
from engine.video.listing import image_paths, natural_key


@dataclasses.dataclass(frozen=True)
class Sequence:
    """One sequence. It holds paths, not pictures, so that it can be sent to a worker process."""

    name: str
    boxes: Floats  # [N, 4] x, y, w, h as they stand in the file, NaN: no box; test sets give the first frame's only: [1, 4]
    images: tuple[Path, ...] = ()
    video: Path | None = None  # instead of images
    absent: Flags | None = None  # [N], fully occluded or out of view
    covered: Flags | None = None  # [N], GOT-10k's cover label above 0
    warnings: tuple[str, ...] = ()
    polygons: bool = False  # the file holds polygons, `boxes` their bounding boxes

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

    def check_start(self) -> None:
        """DatasetError unless a tracker can start from the first box."""
        first = self.boxes[0]
        if not (np.isfinite(first).all() and (first[2:] > 0).all()):
            raise DatasetError(f"{self.name}: the first box must be finite and have an area, got {first.tolist()}")


@dataclasses.dataclass(frozen=True)
class Failure:
    """A sequence that cannot be used, or has no result, and why."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What a folder holds: usable sequences and broken ones, by name."""

    root: Path
    layout: str
    sequences: tuple[Sequence, ...]
    broken: tuple[Failure, ...]

    @property
    def found(self) -> int:
        """How many sequences the folder holds, the broken ones among them."""
        return len(self.sequences) + len(self.broken)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the figures should know, one line each for the whole data set."""
        polygons = sum(sequence.polygons for sequence in self.sequences)
        if not polygons:
            return ()
        return (
            f"the ground truth of {polygons} sequences is polygons: their axis-aligned bounding boxes are used, as the VOT toolkit does",
        )


def collect(name: str, load: Callable[[], Sequence]) -> Sequence | Failure:
    """The sequence, or why it cannot be used: one bad sequence must not hide the others."""
    try:
        return load()
    except EsatError as error:
        return Failure(name, str(error))
    except OSError as error:
        return Failure(name, f"cannot read {error.filename or name}: {error.strerror or error}")


def build(
    name: str,
    truth: Path,
    images: tuple[Path, ...],
    spare: int | None = 0,
    absent: Flags | None = None,
    covered: Flags | None = None,
) -> Sequence:
    """A sequence of images with the boxes in the file `truth`: as many boxes as images, or one box for the first frame (test sets).

    spare: how many images beyond the last box may be left out, with a warning; None: any number. DatasetError for other lengths.
    """
    boxes, polygons = read_box_file(truth)
    return fit(Sequence(name, boxes, images, absent=absent, covered=covered, polygons=polygons), spare)


def fit(sequence: Sequence, spare: int | None = 0) -> Sequence:
    """The sequence with its lengths checked, images beyond the last box left out: see `build`."""
    name, boxes, images = sequence.name, sequence.boxes, sequence.images
    if len(boxes) > len(images):
        raise DatasetError(f"{name}: {len(boxes)} boxes for {len(images)} images: images are missing")
    beyond = len(images) - len(boxes) if len(boxes) > 1 else 0
    if beyond:
        if spare is not None and beyond > spare:
            raise DatasetError(f"{name}: {len(boxes)} boxes for {len(images)} images")
        warning = f"{len(images)} images, {len(boxes)} boxes: the last {beyond} images are left out"
        sequence = dataclasses.replace(sequence, images=images[: len(boxes)], warnings=(*sequence.warnings, warning))
    for kind, flags in (("occlusion or absence", sequence.absent), ("cover", sequence.covered)):
        if flags is not None and len(flags) != len(boxes):
            raise DatasetError(f"{name}: {len(flags)} {kind} labels for {len(boxes)} boxes")
    return sequence


def image_files(folder: Path) -> tuple[Path, ...]:
    """The images of a folder in natural order (0.jpg, 1.jpg, .., 10.jpg). DatasetError if there is none."""
    if not folder.is_dir():
        raise DatasetError(f"no folder {folder}")
    paths = image_paths(folder)
    if not paths:
        raise DatasetError(f"no images in {folder}")
    return tuple(paths)


def files(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder that match, in natural order, without hidden ones (other systems leave `._NAME` beside NAME)."""
    return sorted((path for path in folder.glob(pattern) if not path.name.startswith(".")), key=lambda path: natural_key(path.name))


def folders(root: Path) -> list[Path]:
    """The folders in `root` that can be read, in natural order, without hidden ones; an EsatWarning for the others, such as a disk's lost+found."""
    found = (entry for entry in root.iterdir() if not entry.name.startswith(".") and os.path.isdir(entry))
    return sorted((entry for entry in found if _can_be_read(entry)), key=lambda entry: natural_key(entry.name))


def _can_be_read(folder: Path) -> bool:
    try:
        os.stat(folder / ".")  # may be entered
        os.scandir(folder).close()  # may be listed
    except OSError as error:
        warnings.warn(f"{folder} is left out: {error.strerror}", EsatWarning, stacklevel=3)
        return False
    return True
