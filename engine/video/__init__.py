"""Frames in, annotated video and boxes out. Nothing here needs PyTorch; what needs a video library is imported when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.video.camera import Camera
    from engine.video.files import VideoFile
    from engine.video.folder import ImageFolder
    from engine.video.frames import Frame, Source
    from engine.video.reader import Reader
    from engine.video.sources import open_source
    from engine.video.stream import NetworkStream

_HOME = {
    "Camera": "camera",
    "Frame": "frames",
    "ImageFolder": "folder",
    "NetworkStream": "stream",
    "Reader": "reader",
    "Source": "frames",
    "VideoFile": "files",
    "open_source": "sources",
}

__all__ = ["Camera", "Frame", "ImageFolder", "NetworkStream", "Reader", "Source", "VideoFile", "open_source"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"engine.video.{_HOME[name]}"), name)
    raise AttributeError(f"module 'engine.video' has no attribute {name!r}")
