"""A folder of numbered images as a source, or one image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

from engine.errors import SourceError
from engine.video.frames import Frame, Source
from engine.video.images import ImageReader
from engine.video.listing import image_paths


class Images(Source):
    """Image files in the given order. They may differ in size, kind and depth: see `ImageReader`.

    Those that cannot be decoded are passed over, and count in `damaged`; the others keep their indices. SourceError if it is the first one.
    """

    one_size = False

    def __init__(self, paths: Sequence[Path], name: str, rate: Fraction = Fraction(30)) -> None:
        self.paths, self.name, self.rate, self.time_base = list(paths), name, rate, 1 / rate
        self.frame_count = len(self.paths)

    def __iter__(self) -> Iterator[Frame]:
        read = ImageReader(self.paths[0])
        for index, path in enumerate(self.paths):
            if not self.wanted(index, index / self.rate):
                continue
            try:
                image = read(path)
            except SourceError as error:
                if index == 0:
                    raise SourceError(f"frame 0: {error}") from error
                self.damaged += 1
                continue
            self.notes = [read.note] if read.note else []
            yield Frame(index, index / self.rate, image)


class ImageFolder(Images):
    """The images of one folder in natural order; files that begin with a dot and other kinds of files are passed over.

    Raises SourceError for a folder without images.
    """

    def __init__(self, folder: Path, rate: Fraction = Fraction(30)) -> None:
        try:
            paths = image_paths(folder)
            kinds = {path.suffix.lower() for path in folder.iterdir() if path.is_file()}
        except OSError as error:
            raise SourceError(f"cannot read the folder {folder}: {error.strerror}") from error
        if not paths:
            hint = f"; did you mean {folder / 'img'}?" if os.path.isdir(folder / "img") else ""
            hint = hint or ("; .heic files must be converted first" if kinds & {".heic", ".heif"} else "")
            raise SourceError(f"no images in {folder}: expected files like 0001.jpg or 0001.png{hint}")
        super().__init__(paths, str(folder), rate)
