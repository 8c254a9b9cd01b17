"""Which files of a folder are pictures and videos, in which order."""

from __future__ import annotations

import re
from collections.abc import Set
from pathlib import Path

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".ts", ".webm"})


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which `frame2.png` comes before `frame10.png`, and equal numbers in another width keep a fixed order."""
    parts = re.split(r"(\d+)", name)
    return (*((1, int(part), part) if part.isdecimal() else (0, 0, part.casefold()) for part in parts), (0, 0, name))


def image_paths(folder: Path) -> list[Path]:
    """The picture files of a folder in natural order. OSError if it cannot be read."""
    return _paths(folder, IMAGE_SUFFIXES)


def video_paths(folder: Path) -> list[Path]:
    """The video files of a folder in natural order. OSError if it cannot be read."""
    return _paths(folder, VIDEO_SUFFIXES)


def _paths(folder: Path, suffixes: Set[str]) -> list[Path]:
    """Names that begin with a dot are passed over: macOS leaves a `._0001.jpg` beside each file on foreign disks, which is no picture."""
    found = (path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith("."))
    return sorted(found, key=lambda path: natural_key(path.name))
