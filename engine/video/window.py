"""A window on the desktop, for those who have one and an OpenCV with windows."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from importlib import metadata

import cv2
import numpy as np

from engine.errors import BoxError, SinkError
from engine.video.draw import Annotate
from engine.video.frames import Frame
from engine.video.sinks import Record, Sink

_ESCAPE = 27


def check_windows(what: str) -> None:
    """SinkError that says what is missing for windows; `what` is the option that wants one."""
    gui = re.search(r"^\s*GUI:\s*(\S+)", cv2.getBuildInformation(), re.MULTILINE)
    if gui is None or gui.group(1) == "NONE":
        raise SinkError(
            f"{what} needs an OpenCV with windows, this one ({_distribution()} {cv2.__version__}) has none: "
            "pip uninstall opencv-python-headless; pip install opencv-python"
        )
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise SinkError(f"{what} needs a display, but neither DISPLAY nor WAYLAND_DISPLAY is set")


def select_boxes(image: np.ndarray) -> list[tuple[float, float, float, float]]:
    """Let the user draw boxes on `image` with the mouse: x, y, w, h in pixels each. BoxError if none was drawn."""
    title = "esat: draw a box, then Enter; the next one likewise; Escape when all are drawn"
    boxes = [(float(x), float(y), float(w), float(h)) for x, y, w, h in cv2.selectROIs(title, image, showCrosshair=False) if w and h]
    cv2.destroyWindow(title)
    if not boxes:
        raise BoxError("no box was drawn")
    return boxes


class Window(Sink):
    """Shows each annotated frame. `closed` becomes True when the user presses q or Escape."""

    def __init__(self, title: str, draw: Annotate) -> None:
        check_windows("--show")
        self._title, self._draw = title, draw
        self.closed = False

    def write(self, frame: Frame, records: Sequence[Record]) -> None:
        cv2.imshow(self._title, self._draw(frame.image, records))
        self.closed = self.closed or cv2.waitKey(1) & 0xFF in (ord("q"), _ESCAPE)

    def publish(self) -> None:
        cv2.destroyAllWindows()

    abort = publish


def _distribution() -> str:
    for name in ("opencv-python-headless", "opencv-contrib-python-headless", "opencv-python", "opencv-contrib-python"):
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return name
    return "opencv"
