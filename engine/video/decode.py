"""Decoding through PyAV that files and network streams share: open, frames in BGR, rotation, errors in words."""

from __future__ import annotations

from fractions import Fraction
from typing import IO, Any

import av
import av.error
import numpy as np
from av.video.reformatter import ColorRange, VideoReformatter

from engine.errors import SourceError

_NOT_VIDEO = frozenset({"ansi"})  # FFmpeg draws text files as terminal pictures; nobody wants to track in those


def open_container(
    place: str | IO[bytes], name: str, timeout: tuple[float, float] | None = None, options: dict[str, str] | None = None
) -> Any:
    """Open a PyAV input that holds a picture stream. `timeout`: seconds to connect and to wait for data. Raises SourceError."""
    try:
        container = av.open(place, timeout=timeout, container_options=options or {})
    except av.error.InvalidDataError as error:
        raise SourceError(f"cannot open {name}: not a video that FFmpeg knows, or one that is cut off or damaged") from error
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise SourceError(f"cannot open {name} as a video: {reason(error)}") from error
    codecs = [stream.codec_context for stream in container.streams.video]
    if not codecs or codecs[0] is None or codecs[0].name in _NOT_VIDEO:
        container.close()
        what = "video in a codec that this FFmpeg does not know" if codecs and codecs[0] is None else "no video stream"
        raise SourceError(f"{name} holds {what} (format: {container.format.long_name})")
    return container


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

    def __call__(self, frame: Any) -> np.ndarray:
        limits = ColorRange(frame.color_range) if frame.color_range in (1, 2) else None
        image = self._reformatter.reformat(frame, format="bgr24", src_color_range=limits).to_ndarray()
        quarter_turns = round(frame.rotation / 90) % 4  # counterclockwise, as the display matrix asks
        return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image


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
