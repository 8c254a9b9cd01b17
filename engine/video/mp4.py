"""Annotated video: H.264 in mp4 as browsers play it, with the source's time stamps."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import av.error
import cv2
import numpy as np
from av.video.reformatter import Colorspace, VideoReformatter

from engine.errors import SinkError
from engine.video.draw import Annotate
from engine.video.frames import Frame
from engine.video.sinks import FileSink, Record

_ENCODERS = {"libx264": {"preset": "veryfast", "crf": "20"}, "libopenh264": {"b": "4M"}}
_BT709 = 1


class Mp4(FileSink):
    """Writes what `draw(image, records)` returns, from time 0 on.

    yuv420p, BT.709, index first (a browser starts at once), even sizes by repeating the edge.

    The size is that of the first frame, `width` x `height`; frames of another size are fitted into it with black borders.
    pixel_aspect: see `Frame`; players stretch the picture by it, as they do with the source.
    Raises SinkError: when made, for a folder that cannot be written, another suffix than .mp4, or a PyAV without an H.264 encoder.
    """

    def __init__(
        self,
        target: Path,
        width: int,
        height: int,
        rate: Fraction,
        time_base: Fraction,
        draw: Annotate,
        pixel_aspect: Fraction = Fraction(1),
    ) -> None:
        if target.suffix.lower() != ".mp4":
            raise SinkError(f"cannot write {target}: annotated video is written as .mp4")
        encoder = h264_encoder()
        super().__init__(target)
        self._draw, self._size = draw, (width, height)
        self._time_base = time_base if time_base.denominator <= 1_000_000 else Fraction(1, 90_000)
        self._last_pts, self._written = -1, 0
        self._begin: Fraction | None = None
        self._reformatter = VideoReformatter()
        try:
            self._container = cast(
                Any, av.open(str(self._pending.partial), "w", format="mp4", container_options={"movflags": "+faststart"})
            )
            self._stream = self._container.add_stream(encoder, rate=rate.limit_denominator(60_000), options=_ENCODERS[encoder])
            self._stream.width, self._stream.height = width + width % 2, height + height % 2
            self._stream.pix_fmt = "yuv420p"
            self._stream.time_base = self._stream.codec_context.time_base = self._time_base
            context = self._stream.codec_context
            context.sample_aspect_ratio = pixel_aspect.limit_denominator(1000)
            context.colorspace = context.color_primaries = context.color_trc = context.color_range = _BT709  # range 1: limited
            context.open()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self._pending.discard()
            raise SinkError(f"cannot write {target}: {_reason(error)}") from error

    def write(self, frame: Frame, records: Sequence[Record]) -> None:
        image = _fit(self._draw(frame.image, records), *self._size)
        picture = av.VideoFrame.from_ndarray(image, format="bgr24")
        picture = self._reformatter.reformat(picture, format="yuv420p", dst_colorspace=Colorspace.ITU709)
        if self._begin is None:
            self._begin = frame.timestamp
        elapsed = abs(frame.timestamp - self._begin)  # a clip may be gone through backwards
        self._last_pts = max(round(elapsed / self._time_base), self._last_pts + 1)
        picture.pts, picture.time_base = self._last_pts, self._time_base
        self._encode(picture)
        self._written += 1

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Flush, close, and read the index back: a full disk can pass unnoticed until here."""
        try:
            self._encode(None)
            self._container.close()
            with av.open(str(self._pending.partial)) as check:
                stored = check.streams.video[0].frames
        except (av.error.FFmpegError, OSError, ValueError, IndexError) as error:
            raise SinkError(f"cannot write {self.target}: {_reason(error)}") from error
        if stored != self._written:
            raise SinkError(f"cannot write {self.target}: {stored} of {self._written} frames arrived in the file (disk full?)")

    def abort(self) -> None:
        super().abort()
        with contextlib.suppress(av.error.FFmpegError, OSError, ValueError):  # writing the index of a file that is gone already
            self._container.close()

    def _encode(self, picture: Any) -> None:
        try:
            for packet in self._stream.encode(picture):
                self._container.mux(packet)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SinkError(f"cannot write {self.target}: {_reason(error)}") from error


def h264_encoder() -> str:
    """The H.264 encoder that this PyAV has; SinkError if there is none."""
    for name in _ENCODERS:
        if name in av.codecs_available:
            try:
                av.Codec(name, "w")
            except (av.error.FFmpegError, ValueError):
                continue
            return name
    raise SinkError(f"PyAV {av.__version__} has no H.264 encoder ({' or '.join(_ENCODERS)}): install PyAV's own wheel, `pip install av`")


def _fit(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """`image` scaled into width x height with black borders if it is of another size, then padded to even sides."""
    if image.shape[:2] != (height, width):
        scale = min(width / image.shape[1], height / image.shape[0])
        sides = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        inner = cv2.resize(image, sides, interpolation=cv2.INTER_AREA)
        image = np.zeros((height, width, 3), np.uint8)
        top, left = (height - inner.shape[0]) // 2, (width - inner.shape[1]) // 2
        image[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    if width % 2 or height % 2:
        image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return image


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
