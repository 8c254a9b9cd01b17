"""Places in a clip as people name them: a frame's number or a time."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction

from engine.errors import ConfigError
from engine.video.frames import Frame

_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")
_SECONDS = re.compile(r"(\d+(?:\.\d+)?)s")


@dataclasses.dataclass(frozen=True)
class Position:
    """A frame's index in its source (from 0), or seconds since the source's first frame; exactly one of them is given."""

    index: int | None = None
    seconds: Fraction | None = None

    def reached(self, index: int, time: Fraction, backwards: bool = False) -> bool:
        """Whether that frame is at this place or beyond it, in the direction in which the clip is gone through."""
        here, there = (time, self.seconds) if self.index is None else (index, self.index)
        assert there is not None
        return here <= there if backwards else here >= there

    def passed(self, first: Frame, rate: Fraction, backwards: bool = False) -> bool:
        """Whether a run that begins with `first` never comes to this place. A time belongs to the frame that follows it within 1 / rate."""
        if self.index is not None:
            return self.index > first.index if backwards else self.index < first.index
        assert self.seconds is not None
        return self.seconds >= first.timestamp + 1 / rate if backwards else self.seconds <= first.timestamp - 1 / rate

    def frame_number(self, rate: Fraction) -> int:
        """About which frame that is at `rate` frames per second."""
        return self.index if self.index is not None else round((self.seconds or 0) * rate)


def parse_position(text: str, what: str) -> Position:
    """`48` (a frame), `2s`, `2.5s`, `01:02.5` or `00:01:02.5` (times). ConfigError that begins with `what` for anything else."""
    text = text.strip()
    if text.isdecimal():
        return Position(index=int(text))
    if match := _SECONDS.fullmatch(text):
        return Position(seconds=Fraction(match.group(1)))
    if match := _CLOCK.fullmatch(text):
        hours, minutes, seconds = match.groups()
        return Position(seconds=int(hours or 0) * 3600 + int(minutes) * 60 + Fraction(seconds))
    raise ConfigError(f"{what} must be a frame such as 48 or a time such as 2s, 2.5s or 00:01:02.5, got {text!r}")


def section(frames: Iterable[Frame], start: Position | None, end: Position | None) -> Iterator[Frame]:
    """The frames from `start` up to `end`, which is no longer one of them. What comes after is not read."""
    for frame in frames:
        if end is not None and end.reached(frame.index, frame.timestamp):
            return
        if start is None or start.reached(frame.index, frame.timestamp):
            yield frame
