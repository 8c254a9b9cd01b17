"""Decoding through PyAV that files and network streams share: open, choose a stream, upright frames in BGR, errors in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import IO, Any

import av
import av.error
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import ColorRange, VideoReformatter

from engine.errors import SourceError
from engine.video.choice import choose_stream
from engine.video.frames import Frame
from engine.video.lost import Lost
from engine.video.orientation import is_sideways, turned, upright

FAILURES = (av.error.FFmpegError, OSError, ValueError)  # what PyAV raises for what FFmpeg cannot do
_TRIES = 100  # errors of the demuxer in a row before a file is given up


def open_container(
    source: str | IO[bytes], name: str, timeout: tuple[float, float] | None = None, options: dict[str, str] | None = None
) -> tuple[Any, Any]:
    """Open a PyAV input that holds moving pictures: the container, and the stream of it to track in.

    `timeout`: seconds to connect and to wait for data. Raises SourceError.
    """
    try:
        container = av.open(source, timeout=timeout, container_options=options or {})
    except av.error.InvalidDataError as error:
        raise SourceError(f"cannot open {name}: not a video that FFmpeg knows, or one that is cut off or damaged") from error
    except FAILURES as error:
        raise SourceError(f"cannot open {name} as a video: {reason(error)}") from error
    try:
        return container, choose_stream(container, name)
    except SourceError:
        container.close()
        raise


def reason(error: Exception) -> str:
    """FFmpeg's words for an error, without numbers and file names."""
    if isinstance(error, av.error.ExitError):
        return "no answer in time"
    return getattr(error, "strerror", None) or str(error)


def average_rate(stream: Any) -> Fraction:
    """Frames per second as the container or the codec states them; 25 where neither does."""
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    return Fraction(rate) if rate else Fraction(25)


class ToBgr:
    """Turns decoded frames of any pixel format into upright uint8 BGR [H, W, 3] arrays; one conversion context is reused."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: Any, matrix: bytes | None) -> np.ndarray:
        limits = ColorRange(frame.color_range) if frame.color_range in (1, 2) else None
        return upright(self._reformatter.reformat(frame, format="bgr24", src_color_range=limits).to_ndarray(), matrix)


def display_matrix(picture: Any) -> bytes | None:
    """How a decoded frame is to be turned and flipped, for `upright`."""
    try:
        matrix = picture.side_data.get(SideData.DISPLAYMATRIX)
    except ValueError:  # PyAV refuses all side data of a frame if one is of a kind that it does not know; flips are lost then
        return turned(round(picture.rotation / 90) % 4)
    return None if matrix is None else bytes(matrix)


class Clock:
    """Exact seconds since the first frame, strictly increasing; frames without a time stamp follow at the average rate."""

    def __init__(self, time_base: Fraction, rate: Fraction) -> None:
        self._time_base, self._step = time_base, 1 / rate
        self._first: Fraction | None = None
        self._last: Fraction | None = None

    def __call__(self, pts: int | None) -> Fraction:
        following = Fraction(0) if self._last is None else self._last + self._step
        if pts is None:
            now = following
        else:
            seconds = pts * self._time_base
            if self._first is None:
                self._first = seconds - following
            now = seconds - self._first
            if self._last is not None and now <= self._last:  # damaged or restarted time stamps must not stop the clock
                self._first = seconds - following
                now = following
        self._last = now
        return now


class Decoding:
    """One pass through a stream: `frames` gives its pictures, and the counts tell what became of its packets.

    damaged: frames that were lost (they leave a gap in the indices) or repaired; lost_at_end: those of them behind the last picture.
    reached: the index behind the latest picture; packets: as many came;
    end: seconds from the first packet to the end of the latest one, None without time stamps.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        self._container, self._stream = container, stream
        self._time_base = Fraction(stream.time_base)
        self._first: int | None = None
        self.damaged = self.lost_at_end = self.packets = self.reached = 0
        self.end: Fraction | None = None

    def frames(self, is_file: bool, wanted: Callable[[int, Fraction], bool] = lambda index, time: True) -> Iterator[Frame]:
        """Frames in display order that are `wanted` (see `Source`), until the stream ends or fails for good (one of `FAILURES`).

        Packets that cannot be decoded are passed over; in a file also places where none can be found, unless nothing comes any more.
        """
        rate, aspect = average_rate(self._stream), self._stream.sample_aspect_ratio or Fraction(1)
        to_bgr, clock, lost = ToBgr(), Clock(self._time_base, rate), Lost(self._container, self._stream, rate)
        index = 0
        for packet in self._patiently() if is_file else self._container.demux(self._stream):
            if packet.size and not packet.is_discard:
                self._note(packet)
                lost.packet(packet)
            try:
                pictures = packet.decode()
            except av.error.InvalidDataError:
                lost.failure()
                continue
            for picture in pictures:
                pts = lost.time_stamp(picture)
                if lost.is_late(pts):
                    continue
                for missing in lost.before(pts):
                    clock(missing)
                    index += 1
                    self.damaged += 1
                self.damaged += picture.is_corrupt
                time = clock(pts)
                if wanted(index, time):
                    matrix = display_matrix(picture)
                    shown = 1 / aspect if is_sideways(matrix) else aspect
                    yield Frame(index, time, to_bgr(picture, matrix), shown)
                index += 1
                self.reached = index
        self.lost_at_end = lost.at_end()
        self.damaged += self.lost_at_end

    def _patiently(self) -> Iterator[Any]:
        """The packets of a file. An error of the demuxer ends PyAV's iteration, not the file."""
        errors, torn = 0, None
        while True:
            try:
                for packet in self._container.demux(self._stream):
                    errors = 0
                    if torn is not None and packet.size:  # at the end, where the file breaks off, it would spoil the pictures before it
                        yield torn
                    torn = packet if packet.is_corrupt else None
                    if torn is None:
                        yield packet
            except av.error.InvalidDataError:
                errors += 1
                if errors == _TRIES:
                    raise
            else:
                return

    def _note(self, packet: Any) -> None:
        self.packets += 1
        if packet.pts is None:
            return
        self._first = packet.pts if self._first is None else min(self._first, packet.pts)
        end = (packet.pts + (packet.duration or 0) - self._first) * self._time_base
        self.end = end if self.end is None else max(self.end, end)
