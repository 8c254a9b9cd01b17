"""Which frames of a damaged stream never came, so that those after them keep their places."""

from __future__ import annotations

import heapq
from fractions import Fraction
from typing import Any

_NEVER = -(1 << 63)  # before any time stamp
_FROM_THE_START = frozenset({"avi", "matroska", "mov"})  # others are recordings of streams, which may begin between two key frames


class Lost:
    """Compares the packets that go to a decoder with the pictures that come. Time stamps are in the stream's unit, `rate` in frames per second.

    A packet may have no picture of its own (VP8's hidden frames, a second field), so a missing one counts as lost only up to the latest
    packet that the decoder had seen when it failed; in AV1 always, since each of its packets shows a frame. Where the demuxer found the
    stream itself torn, packets are missing too: for a second from there on, a gap in time counts as the frames that it has room for.
    """

    def __init__(self, container: Any, stream: Any, rate: Fraction) -> None:
        formats = set(container.format.name.split(","))
        codec = stream.codec_context
        self._begun = bool(formats & _FROM_THE_START)
        self._is_avi = "avi" in formats
        self._is_timed = not (self._is_avi and codec.has_b_frames)
        self._always = "av1" in codec.name
        self._frame = 1 / (rate * Fraction(stream.time_base))  # in the stream's unit
        self._second = round(1 / Fraction(stream.time_base))
        self._waiting: list[int] = []  # time stamps of packets whose picture has not come, a heap
        self._failures = 0
        self._latest = self._doubtful = self._torn = self._shown = _NEVER
        self._given_up: set[int] = set()

    def packet(self, packet: Any) -> None:
        """A packet goes to the decoder."""
        if self._is_avi:  # which stores no presentation times; FFmpeg makes them up
            packet.pts = packet.dts
        self._begun = self._begun or packet.is_keyframe
        if packet.pts is None or not self._begun or not self._is_timed:
            return
        heapq.heappush(self._waiting, packet.pts)
        self._latest = max(self._latest, packet.pts)
        if packet.is_corrupt:
            self._torn = self._latest + self._second

    def failure(self) -> None:
        """The decoder could do nothing with a packet, which may be an earlier one than it was given last."""
        self._failures += self._begun
        self._doubtful = self._latest

    def time_stamp(self, picture: Any) -> int | None:
        """A picture's time stamp, None if it has none that tells its place."""
        return picture.pts if self._is_timed else None

    def is_late(self, pts: int | None) -> bool:
        """Whether this is a picture that was counted as lost already: a decoder gives some out of order after damage."""
        return pts in self._given_up

    def before(self, pts: int | None) -> list[int | None]:
        """The time stamps (None: unknown) of frames that were lost since the last picture, now that the one of `pts` has come."""
        if pts is None:
            failures, self._failures = self._failures, 0
            return [None] * failures
        passed = []
        while self._waiting and self._waiting[0] <= pts:
            passed.append(heapq.heappop(self._waiting))
        lost = [time for time in passed if time < pts] if self._failures or (self._always and self._shown != _NEVER) else []
        if self._shown != _NEVER and self._shown < pts <= self._torn:
            lost = [self._shown + round(number * self._frame) for number in range(1, round((pts - self._shown) / self._frame))]
        self._given_up.update(lost)
        if pts > self._doubtful:
            self._failures = 0
            if pts > self._doubtful + self._second:
                self._given_up.clear()
        self._shown = max(self._shown, pts)
        return list(lost)

    def at_end(self) -> int:
        """How many frames were lost after the last picture."""
        return sum(time > self._shown for time in self._waiting) or self._failures
