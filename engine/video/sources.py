"""From what a user types to a source."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from engine.errors import SourceError
from engine.video.camera import Camera
from engine.video.files import VideoFile, standard_input
from engine.video.folder import ImageFolder
from engine.video.frames import Source
from engine.video.stream import SCHEMES, NetworkStream


def open_source(source: str | Path | int) -> Source:
    """Open a video file, a folder of images, a camera number, a URL, or `-` for standard input. What exists as a path is a path.

    Raises SourceError in one line for whatever cannot be opened.
    """
    text = str(source)
    if isinstance(source, int):
        return Camera(source)
    if text == "-":
        return standard_input()
    scheme = urlsplit(text).scheme.lower() if "://" in text else ""
    if scheme in SCHEMES:
        return NetworkStream(text)
    if camera := re.fullmatch(r"/dev/video(\d+)", text):
        return Camera(int(camera.group(1)))
    path = Path(source)
    if path.is_dir():
        return ImageFolder(path)
    if not path.exists():
        if text.isdecimal():
            return Camera(int(text))
        if scheme:
            raise SourceError(f"{text}: cannot read {scheme}:// URLs, known are {', '.join(sorted(SCHEMES))}")
    return VideoFile(path)
