"""Video over the network: RTSP, HTTP and what else FFmpeg connects to, with time-outs and bounded reconnects."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator
from fractions import Fraction
from typing import Any
from urllib.parse import urlsplit

import av

from engine.errors import EsatWarning, IncompleteError, SourceError
from engine.video.decode import FAILURES, Decoding, average_rate, open_container, reason
from engine.video.files import read_file
from engine.video.frames import Frame, Source
from engine.video.names import shown

SCHEMES = frozenset({"http", "https", "rtmp", "rtmps", "rtp", "rtsp", "rtsps", "srt", "tcp", "udp"})
_FILE_SCHEMES = frozenset({"http", "https"})  # may serve a whole file as well as an endless stream


class NetworkStream(Source):
    """Frames from a URL. An HTTP file of known length is read like a file; everything else is live and survives a lost connection.

    Live: when data stop coming (`read_timeout` seconds), the stream ends or cannot be decoded, up to `reconnects` attempts are made,
    with pauses of `pause`, 2 `pause`, 4 `pause` ... up to 8 seconds; each frame received resets the count. The picture's size may change.
    Timestamps go on over a gap by the wall clock. Raises SourceError when the first connection fails, IncompleteError when all attempts to
    reconnect have failed or a file did not come whole.
    """

    def __init__(self, url: str, open_timeout: float = 10.0, read_timeout: float = 10.0, reconnects: int = 5, pause: float = 0.5) -> None:
        self.name = shown(url)
        self._url, self._timeout, self._reconnects, self._pause = url, (open_timeout, read_timeout), reconnects, pause
        self._stop = threading.Event()
        self._attempts = 0  # reconnects since the last frame
        self._container, self._stream = self._connect()
        self.rate = average_rate(self._stream)
        self.live = not _is_whole_file(url, self._container)
        if not self.live:
            self.time_base = Fraction(self._stream.time_base)
            seconds = Fraction(self._container.duration or 0, av.time_base)
            self.frame_count = self._stream.frames or round(seconds * self.rate) or None

    def __iter__(self) -> Iterator[Frame]:
        if not self.live:
            decoding = Decoding(self._container, self._stream)
            yield from read_file(self, decoding, self._container, self._stream, None)
            return
        index, last = 0, Fraction(-1)
        while True:
            lost_at = time.monotonic_ns()
            offset: Fraction | None = None  # of this connection's first frame
            failure = "the stream ended"
            decoding, damaged = Decoding(self._container, self._stream), self.damaged
            try:
                for frame in decoding.frames(is_file=False):
                    if offset is None:
                        gap = Fraction(time.monotonic_ns() - lost_at, 1_000_000_000)
                        offset = (last + gap if index else Fraction(0)) - frame.timestamp
                    last = frame.timestamp + offset
                    self._attempts = 0
                    self.damaged = damaged + decoding.damaged
                    yield Frame(index, last, frame.image, frame.pixel_aspect)
                    index += 1
            except FAILURES as error:
                failure = reason(error)
            self.damaged = damaged + decoding.damaged
            if self._stop.is_set():
                return
            self._reconnect(index, failure)

    def interrupt(self) -> None:
        self._stop.set()

    def close(self) -> None:
        self._stop.set()
        self._container.close()

    def _connect(self) -> tuple[Any, Any]:
        options = {"rtsp_transport": "tcp"} if urlsplit(self._url).scheme.startswith("rtsp") else {}
        return open_container(self._url, self.name, self._timeout, options)

    def _reconnect(self, index: int, failure: str) -> None:
        self._container.close()
        if index:
            warnings.warn(f"{self.name}: {failure} after frame {index}, it is opened again", EsatWarning, stacklevel=3)
        while self._attempts < self._reconnects:
            if self._stop.wait(min(self._pause * 2**self._attempts, 8.0)):
                return
            self._attempts += 1
            try:
                self._container, self._stream = self._connect()
                return
            except SourceError as error:
                failure = str(error)
        kind = IncompleteError if index else SourceError
        raise kind(f"{self.name}: lost after frame {index}, {self._reconnects} attempts to reconnect failed: {failure}")


def _is_whole_file(url: str, container: Any) -> bool:
    """Whether an HTTP server offers something with an end: a body of known length, or a playlist of known duration."""
    if urlsplit(url).scheme not in _FILE_SCHEMES:
        return False
    return bool(container.duration) or (container.format.name != "hls" and container.size > 0)
