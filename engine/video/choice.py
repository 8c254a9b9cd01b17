"""Which of a container's video streams holds the clip: covers, stills and thumbnails are video streams too."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from av.stream import Disposition

from engine.errors import SourceError

_NOT_VIDEO = frozenset({"ansi"})  # FFmpeg draws text files as terminal pictures; nobody wants to track in those
_STILL_BRANDS = frozenset({"avif", "heic", "heim", "heis", "heix", "mif1"})  # ISO/IEC 23008-12


def choose_stream(container: Any, name: str) -> Any:
    """The stream with the largest pictures among those that move; a still one where nothing moves. SourceError if there is no video."""
    streams = [stream for stream in container.streams.video if stream.codec_context is not None]
    if not streams or streams[0].codec_context.name in _NOT_VIDEO:
        what = "video in a codec that this FFmpeg does not know" if container.streams.video and not streams else "no video stream"
        raise SourceError(f"{name} holds {what} (format: {container.format.long_name})")
    best = max(streams, key=lambda stream: (not is_still(stream), not _is_cover(stream), _area(stream), -stream.index))
    if len(streams) > 1 and is_still(best) and container.metadata.get("major_brand") in _STILL_BRANDS:
        size = f"{best.codec_context.width} x {best.codec_context.height}"
        raise SourceError(
            f"{name} is a still picture in {len(streams)} parts (the largest has {size}), not a video: convert it to JPEG or PNG"
        )
    return best


def is_still(stream: Any) -> bool:
    """Whether a stream is a cover or another single picture, as far as the container says."""
    duration, rate = stated_duration(stream), stream.average_rate
    return _is_cover(stream) or stream.frames == 1 or bool(duration and rate and duration * Fraction(rate) < Fraction(3, 2))


def stated_duration(stream: Any) -> Fraction | None:
    """Seconds of the stream by its own header, or None."""
    tag = stream.metadata.get("DURATION", "")  # Matroska: 00:00:05.280000000; its `duration` is that of the longest stream
    try:
        hours, minutes, seconds = tag.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    except ValueError:
        return Fraction(stream.duration * stream.time_base) if stream.duration else None


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _area(stream: Any) -> int:
    return int(stream.codec_context.width * stream.codec_context.height)
