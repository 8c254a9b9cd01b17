"""From what a user types to a source."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from engine.errors import SourceError
from engine.video.camera import Camera
from engine.video.files import VideoFile, standard_input
from engine.video.folder import ImageFolder, Images
from engine.video.frames import Source
from engine.video.listing import IMAGE_SUFFIXES
from engine.video.names import shown
from engine.video.stream import SCHEMES, NetworkStream


def open_source(source: str | Path | int) -> Source:
    """Open a video file, an image, a folder of images, a camera number, a URL, or `-` for standard input. What exists as a path is a path.

    Raises SourceError in one line for whatever cannot be opened.
    """
    text = str(source)
    if isinstance(source, int):
        return Camera(source)
    if text == "-":
        return standard_input()
    path = local_path(source)
    if path is None:
        return NetworkStream(text)
    if camera := re.fullmatch(r"/dev/video(\d+)", text):
        return Camera(int(camera.group(1)))
    if os.path.isdir(path):
        return ImageFolder(path)
    if not os.path.exists(path):
        if text.isdecimal():
            return Camera(int(text))
        if re.match(r"[A-Za-z]:[\\/]|\\\\", str(path)) and sys.platform != "win32":
            raise SourceError(f"no such file: {path} (a path of Windows, but this is {sys.platform}{_under_wsl(str(path))})")
    if path.suffix.lower() in IMAGE_SUFFIXES and os.path.isfile(path):
        return Images([path], str(path))
    return VideoFile(path)


def local_path(source: str | Path) -> Path | None:
    """The path that a source names, by itself or as a file:// URL; None for what comes over the network.

    SourceError for a URL of another kind or that is none, and for a file:// URL of another machine.
    """
    text = str(source)
    try:
        scheme = urlsplit(text).scheme.lower() if "://" in text or text.lower().startswith("file:/") else ""
    except ValueError as error:
        raise SourceError(f"{shown(text)} is no valid URL") from error  # the reason may quote a password
    if not scheme or isinstance(source, Path):
        return Path(source)
    if scheme in SCHEMES:
        return None
    if scheme != "file":
        if os.path.exists(text):
            return Path(text)
        raise SourceError(f"{shown(text)}: cannot read {scheme}:// URLs, known are {', '.join(sorted(SCHEMES | {'file'}))}")
    parts = urlsplit(text, allow_fragments=False)
    if parts.netloc.lower() not in ("", "localhost"):
        raise SourceError(f"{shown(text)}: names a file of the machine {parts.netloc.rpartition('@')[2]!r}; expected file:///PATH")
    name = unquote(parts.path + (f"?{parts.query}" if parts.query else ""))  # a browser would write %3F, people who paste a path do not
    return Path(name[1:] if re.match(r"/[A-Za-z]:[\\/]", name) else name)  # file:///C:/clip.mp4


def _under_wsl(path: str) -> str:
    if path[1] != ":":
        return ""
    return f"; under WSL it may be /mnt/{path[0].lower()}/{path[3:]}".replace("\\", "/")
