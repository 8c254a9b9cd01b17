"""Picture files as arrays: one decoder, one orientation and one range of values for every reader of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np

from engine.errors import SourceError

_FULL = [(1 << bits) - 1 for bits in (8, 10, 12, 14, 16)]  # the largest values of sensors


@dataclasses.dataclass(frozen=True)
class Range:
    """Which values of 16-bit pictures become 0 and 255; what lies outside is clipped."""

    low: int
    high: int

    @classmethod
    def of(cls, image: np.ndarray) -> Range:
        """The range of the sensor that took `image` (uint16), by its largest value; narrower where only a small part of it is used.

        Cameras store 10, 12 or 14 bits in files of 16, whose upper 8 are black; heat cameras use a few hundred values around one temperature.
        Then what is used, and half as much on both sides for what later frames may hold.
        """
        full = next(value for value in _FULL if image.max() <= value)
        low, high = (int(value) for value in np.percentile(image, (0.1, 99.9)))
        if (high - low) * 4 >= full or high - low < 8:  # the latter: an empty first frame, which tells nothing
            return cls(0, full)
        half = (high - low) // 2 + 1
        return cls(max(0, low - half), min(full, high + half))

    def to_bytes(self, image: np.ndarray) -> np.ndarray:
        """`image` as uint8."""
        span = self.high - self.low
        if self.low == 0 and span in _FULL:
            return np.minimum(image >> span.bit_length() - 8, 255).astype(np.uint8)
        return np.clip((image.astype(np.float32) - self.low) * (255 / span), 0, 255).round().astype(np.uint8)


class ImageReader:
    """Reads picture files of one sequence: uint8 BGR [H, W, 3], turned as their EXIF orientation says.

    Grey and transparent pictures become BGR as OpenCV converts them. 16-bit ones are brought to 8 bits by one `Range` for all, that of
    `first`, or of the first one read; `note` then says so. SourceError, which names the file, for one that cannot be decoded.
    """

    def __init__(self, first: Path | None = None) -> None:
        self.note: str | None = None
        self._first = first
        self._range: Range | None = None

    def __call__(self, path: Path) -> np.ndarray:
        image = _decode(path)
        if image.dtype == np.uint8:
            return image
        if self._range is None:
            self._range = Range.of(self._reference(image))
            self.note = f"16-bit pictures: values {self._range.low} to {self._range.high} are taken as 0 to 255"
        return self._range.to_bytes(image)

    def _reference(self, image: np.ndarray) -> np.ndarray:
        try:
            first = image if self._first is None else _decode(self._first)
        except SourceError:
            return image
        return first if first.dtype == np.uint16 else image


def _decode(path: Path) -> np.ndarray:
    """uint8 or uint16 BGR [H, W, 3]."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH) if data.size else None
    except cv2.error:  # a header that promises more pixels than OpenCV allows
        image = None
    if image is None:
        raise SourceError(f"{path} is not an image that OpenCV can decode ({data.size} bytes)")
    if image.dtype not in (np.uint8, np.uint16):
        raise SourceError(f"{path} holds values of the type {image.dtype}: expected 8 or 16 bits without sign")
    return np.asarray(image)
