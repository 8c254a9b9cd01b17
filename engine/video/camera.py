"""A camera that OpenCV can open."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from engine.errors import IncompleteError, SourceError
from engine.video.frames import Frame, Source


class Camera(Source):
    """Camera number `device`, or a path or pipeline that `cv2.VideoCapture` takes. Timestamps are the times of arrival.

    Raises SourceError when there is no such camera, or it gives no frame; IncompleteError when it stops giving frames.
    """

    live = True

    def __init__(self, device: int | str) -> None:
        self.name = f"camera {device}"
        if isinstance(device, int) and sys.platform == "linux" and not Path(f"/dev/video{device}").exists():
            found = ", ".join(sorted(path.name.removeprefix("video") for path in Path("/dev").glob("video*"))) or "none"
            raise SourceError(f"no camera {device}: /dev/video{device} does not exist (cameras found: {found})")
        self._capture = cv2.VideoCapture(device)
        if not self._capture.isOpened():
            raise SourceError(f"{self.name} cannot be opened: in use by another program, or no permission")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = Fraction(rate).limit_denominator(1001) if 1 <= rate <= 1000 else Fraction(30)

    def __iter__(self) -> Iterator[Frame]:
        start, index = 0, 0
        while True:
            good, image = self._capture.read()
            if not good:
                kind = IncompleteError if index else SourceError
                raise kind(f"{self.name} stopped giving frames after frame {index}")
            now = time.monotonic_ns()
            start = start if index else now
            yield Frame(index, Fraction(now - start, 1_000_000_000), np.asarray(image, np.uint8))
            index += 1

    def close(self) -> None:
        self._capture.release()
