"""A folder of numbered images as a source."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from engine.errors import SourceError
from engine.video.frames import Frame, Source

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which `frame2.png` comes before `frame10.png`, and equal numbers in another width keep a fixed order."""
    parts = re.split(r"(\d+)", name)
    return (*((1, int(part), part) if part.isdecimal() else (0, 0, part.casefold()) for part in parts), (0, 0, name))


class ImageFolder(Source):
    """The images of one folder in natural order; files that begin with a dot and other kinds of files are passed over.

    Grey, 16-bit and transparent images become 8-bit BGR as OpenCV converts them. Images may differ in size.
    Raises SourceError for a folder without images, and for an image that cannot be decoded, when it is reached.
    """

    def __init__(self, folder: Path, rate: Fraction = Fraction(30)) -> None:
        self.name, self.rate, self.time_base = str(folder), rate, 1 / rate
        try:
            names = [entry.name for entry in folder.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".")]
        except OSError as error:
            raise SourceError(f"cannot read the folder {folder}: {error.strerror}") from error
        if not names:
            hint = f"; did you mean {folder / 'img'}?" if (folder / "img").is_dir() else ""
            raise SourceError(f"no images in {folder}: expected files like 0001.jpg or 0001.png{hint}")
        self.paths = [folder / name for name in sorted(names, key=natural_key)]
        self.frame_count = len(self.paths)

    def __iter__(self) -> Iterator[Frame]:
        for index, path in enumerate(self.paths):
            if self.wanted(index, index / self.rate):
                yield Frame(index, index / self.rate, read_image(path, f"frame {index}"))


def read_image(path: Path, what: str = "image") -> np.ndarray:
    """One image file as uint8 BGR [H, W, 3], or SourceError naming it. `what` stands before the path in the message."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise SourceError(f"{what}: cannot read {path}: {error.strerror}") from error
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:  # a header that promises more pixels than OpenCV allows
        image = None
    if image is None:
        raise SourceError(f"{what}: {path} is not an image that OpenCV can decode ({data.size} bytes)")
    return np.asarray(image)
