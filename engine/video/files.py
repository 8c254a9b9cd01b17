"""Video files as a source: exact time stamps, rotation, any pixel format, and an error that names the frame where a damaged clip stops."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av.error

from engine.errors import SourceError
from engine.video.completeness import is_cut_off
from engine.video.decode import Clock, ToBgr, average_rate, open_container, reason
from engine.video.frames import Frame, Source


class VideoFile(Source):
    """A file in any container and codec that FFmpeg reads, or a byte stream of one (standard input); every frame, in display order.

    `name` stands for the source in messages. Pictures that the decoder could repair count in `damaged`. Raises SourceError: when made,
    for what is missing or no video; while iterating, for a clip that is cut off or cannot be decoded further, naming the frame reached.
    """

    def __init__(self, path: Path | IO[bytes], name: str | None = None) -> None:
        self._path = path if isinstance(path, Path) else None
        self.name = name or (str(path) if isinstance(path, Path) else "video in memory")
        if self._path and not self._path.exists():
            raise SourceError(f"no such file: {path}")
        if self._path and self._path.is_file() and not self._path.stat().st_size:
            raise SourceError(f"{path} is empty")
        self._container = open_container(path if not isinstance(path, Path) else str(path), self.name)
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.rate, self.time_base = average_rate(self._stream), Fraction(self._stream.time_base)
        duration = _stated_duration(self._container, self._stream)
        self.frame_count = self._stream.frames or (max(1, round(duration * self.rate)) if duration else None)

    def __iter__(self) -> Iterator[Frame]:
        to_bgr, clock = ToBgr(), Clock(self.time_base, self.rate)
        index = 0
        try:
            for packet in self._container.demux(self._stream):
                for picture in packet.decode():
                    self.damaged += picture.is_corrupt
                    time = clock(picture.pts)
                    if self.wanted(index, time):
                        yield Frame(index, time, to_bgr(picture))
                    index += 1
        except (av.error.FFmpegError, OSError, ValueError) as error:
            what = "the file is cut off" if self._is_cut_off() else f"damaged ({reason(error)})"
            raise SourceError(f"{self.name}: {what} after {self._progress(index)}") from error
        if self._is_cut_off():
            raise SourceError(f"{self.name}: the file is cut off after {self._progress(index)}")
        if not index:
            raise SourceError(f"{self.name}: no frame could be decoded")

    def close(self) -> None:
        self._container.close()

    def _is_cut_off(self) -> bool:
        return self._path is not None and self._path.is_file() and is_cut_off(self._path)

    def _progress(self, index: int) -> str:
        return f"frame {index}" if not self._stream.frames else f"frame {index} of {self._stream.frames}"


def _stated_duration(container: Any, stream: Any) -> Fraction | None:
    """Seconds of the video stream by the container's header, or None."""
    if stream.duration:
        return Fraction(stream.duration * stream.time_base)
    tag = stream.metadata.get("DURATION", "")  # Matroska: 00:00:05.280000000
    try:
        hours, minutes, seconds = tag.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    except ValueError:
        only_video = len(container.streams) == 1
        return Fraction(container.duration, av.time_base) if container.duration and only_video else None


def standard_input() -> VideoFile:
    """Frames from any container or `yuv4mpegpipe` on standard input: `ffmpeg ... -f yuv4mpegpipe - | esat track - ...`."""
    if sys.stdin is None or sys.stdin.isatty():
        raise SourceError("standard input is a terminal: pipe a video into it, such as `ffmpeg -i clip -f yuv4mpegpipe - | esat track -`")
    return VideoFile(sys.stdin.buffer, "standard input")
