"""Video over the network: RTSP, HTTP and what else FFmpeg connects to, with time-outs and bounded reconnects."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any
from urllib.parse import urlsplit

import av.error

from engine.errors import SourceError
from engine.video.decode import Clock, ToBgr, average_rate, open_container, reason
from engine.video.frames import Frame, Source

SCHEMES = frozenset({"http", "https", "rtmp", "rtmps", "rtp", "rtsp", "rtsps", "srt", "tcp", "udp"})
_FILE_SCHEMES = frozenset({"http", "https"})  # may serve a whole file as well as an endless stream


class NetworkStream(Source):
    """Frames from a URL. An HTTP file of known length is read like a file; everything else is live and survives a lost connection.

    Live: when data stop coming (`read_timeout` seconds), the stream ends or cannot be decoded, up to `reconnects` attempts are made,
    with pauses of `pause`, 2 `pause`, 4 `pause` ... up to 8 seconds; each frame received resets the count. The picture's size may change.
    Timestamps go on over a gap by the wall clock. Raises SourceError when the first connection fails or all attempts have failed.
    """

    def __init__(self, url: str, open_timeout: float = 10.0, read_timeout: float = 10.0, reconnects: int = 5, pause: float = 0.5) -> None:
        self.name = _without_password(url)
        self._url, self._timeout, self._reconnects, self._pause = url, (open_timeout, read_timeout), reconnects, pause
        self._stop = threading.Event()
        self._attempts = 0  # reconnects since the last frame
        self._container = self._connect()
        stream = self._container.streams.video[0]
        self.rate = average_rate(stream)
        self.live = not _is_whole_file(url, self._container)
        if not self.live:
            self.time_base = Fraction(stream.time_base)
            seconds = Fraction(self._container.duration or 0, av.time_base)
            self.frame_count = stream.frames or round(seconds * self.rate) or None

    def __iter__(self) -> Iterator[Frame]:
        index, last = 0, Fraction(-1)
        while True:
            lost_at = time.monotonic_ns()
            offset = None if last < 0 else last
            failure = "the stream ended"
            try:
                for timestamp, image in self._pictures():
                    if offset is not None and timestamp == 0:
                        offset += Fraction(time.monotonic_ns() - lost_at, 1_000_000_000)
                    last = timestamp + (offset or 0)
                    self._attempts = 0
                    yield Frame(index, last, image)
                    index += 1
            except (av.error.FFmpegError, OSError, ValueError) as error:
                failure = reason(error)
                if not self.live:
                    raise SourceError(f"{self.name}: lost after frame {index}: {failure}") from error
            if self._stop.is_set() or not self.live:
                return
            self._reconnect(index, failure)

    def interrupt(self) -> None:
        self._stop.set()

    def close(self) -> None:
        self._stop.set()
        self._container.close()

    def _connect(self) -> Any:
        options = {"rtsp_transport": "tcp"} if urlsplit(self._url).scheme.startswith("rtsp") else {}
        return open_container(self._url, self.name, self._timeout, options)

    def _pictures(self) -> Iterator[tuple[Fraction, Any]]:
        """Time since this connection's first frame and BGR image, until the stream ends or fails."""
        stream = self._container.streams.video[0]
        to_bgr, clock = ToBgr(), Clock(Fraction(stream.time_base), average_rate(stream))
        for packet in self._container.demux(stream):
            try:
                pictures = packet.decode()
            except av.error.InvalidDataError:  # a lost packet damages the pictures up to the next key frame; live streams go on
                self.damaged += 1
                continue
            for picture in pictures:
                self.damaged += picture.is_corrupt
                yield clock(picture.pts), to_bgr(picture)

    def _reconnect(self, index: int, failure: str) -> None:
        self._container.close()
        while self._attempts < self._reconnects:
            if self._stop.wait(min(self._pause * 2**self._attempts, 8.0)):
                return
            self._attempts += 1
            try:
                self._container = self._connect()
                return
            except SourceError as error:
                failure = str(error)
        raise SourceError(f"{self.name}: lost after frame {index}, {self._reconnects} attempts to reconnect failed: {failure}")


def _is_whole_file(url: str, container: Any) -> bool:
    """Whether an HTTP server offers something with an end: a body of known length, or a playlist of known duration."""
    if urlsplit(url).scheme not in _FILE_SCHEMES:
        return False
    return bool(container.duration) or (container.format.name != "hls" and container.size > 0)


def _without_password(url: str) -> str:
    """The URL as it may be shown: user names and passwords left out."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
