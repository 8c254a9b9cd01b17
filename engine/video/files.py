"""Video files as a source: exact time stamps, rotation, any pixel format, and an error that names the frame where a damaged clip stops."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av

from engine.errors import IncompleteError, SourceError
from engine.video.choice import stated_duration
from engine.video.completeness import missing_end
from engine.video.decode import FAILURES, Decoding, average_rate, open_container, reason
from engine.video.frames import Frame, Source


class VideoFile(Source):
    """A file in any container and codec that FFmpeg reads, or a byte stream of one (standard input); every frame, in display order.

    Frames that cannot be decoded are passed over; those after them keep their indices and times. They and frames that the decoder could
    repair count in `damaged`. `name` stands for the source in messages. Raises SourceError: when made, for what is missing or no video;
    while iterating, for a clip without a frame; IncompleteError after the frames of a clip that is cut off or damaged up to its end.
    """

    def __init__(self, path: Path | IO[bytes], name: str | None = None) -> None:
        self._path = path if isinstance(path, Path) else None
        self.name = name or (str(path) if isinstance(path, Path) else "video in memory")
        self.once = self._path is None or not os.path.isfile(self._path)
        if self._path:
            _check_file(self._path)
        # FFmpeg takes a colon in a name for a protocol's, unless another one stands before it.
        self._container, self._stream = open_container(path if not isinstance(path, Path) else f"file:{path}", self.name)
        self._stream.thread_type = "AUTO"
        self.rate, self.time_base = average_rate(self._stream), Fraction(self._stream.time_base)
        duration = _duration(self._container, self._stream)
        self.frame_count = self._stream.frames or (max(1, round(duration * self.rate)) if duration else None)

    def __iter__(self) -> Iterator[Frame]:
        decoding = Decoding(self._container, self._stream)
        yield from read_file(self, decoding, self._container, self._stream, self._path)

    def close(self) -> None:
        self._container.close()


def _check_file(path: Path) -> None:
    """SourceError for what is missing, cannot be reached, or is empty."""
    try:
        status = path.stat()
    except (FileNotFoundError, ValueError) as error:  # ValueError: a zero byte in a URL's path
        raise SourceError(f"no such file: {path}") from error
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    if stat.S_ISREG(status.st_mode) and not status.st_size:
        raise SourceError(f"{path} is empty")


def read_file(source: Source, decoding: Decoding, container: Any, stream: Any, path: Path | None) -> Iterator[Frame]:
    """All frames of something that has an end; `source` gives the name for errors and takes the count of damaged frames."""
    failure = None
    try:
        for frame in decoding.frames(True, source.wanted):
            source.damaged = decoding.damaged
            yield frame
    except FAILURES as error:
        failure = reason(error)
    source.damaged = decoding.damaged
    what = missing_end(container, stream, decoding, path, failure)
    if not decoding.reached:
        raise SourceError(f"{source.name}: no frame could be decoded" + (f": {what}" if what else ""))
    if what:
        of_all = f" of {stream.frames}" if stream.frames else ""
        raise IncompleteError(f"{source.name}: {what} after frame {decoding.reached}{of_all}")


def _duration(container: Any, stream: Any) -> Fraction | None:
    """Seconds of the video stream by the container's header, or None."""
    if stated := stated_duration(stream):
        return stated
    only_video = len(container.streams) == 1
    return Fraction(container.duration, av.time_base) if container.duration and only_video else None


def standard_input() -> VideoFile:
    """Frames from any container or `yuv4mpegpipe` on standard input: `ffmpeg ... -f yuv4mpegpipe - | esat track - ...`."""
    if sys.stdin is None or sys.stdin.isatty():
        raise SourceError("standard input is a terminal: pipe a video into it, such as `ffmpeg -i clip -f yuv4mpegpipe - | esat track -`")
    return VideoFile(sys.stdin.buffer, "standard input")
