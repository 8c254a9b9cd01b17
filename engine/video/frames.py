"""What every source gives: frames in order, with their exact time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from types import TracebackType
from typing import Any, Self

import numpy as np


@dataclasses.dataclass(frozen=True)
class Frame:
    """One picture: uint8 BGR [H, W, 3], its position in the source, and the seconds since the first frame (exact for files).

    pixel_aspect: width over height of a pixel as it is to be shown; other than 1 in anamorphic clips.
    """

    index: int
    timestamp: Fraction
    image: np.ndarray[Any, np.dtype[np.uint8]]
    pixel_aspect: Fraction = Fraction(1)


class Source:
    """An iterator of frames that is closed after use.

    `live` sources cannot wait for a slow reader, so that a tracker should take their newest frame and skip the rest.
    `frame_count` is None where it is not known without decoding; it may be an estimate, good enough for a progress bar.
    `time_base` is the unit in which the timestamps are whole numbers; `rate` is in frames per second.
    `one_size`: all frames are as large as the first one, as far as anybody knows.
    `wanted` is asked with each frame's index and time, in order; a source may pass over a frame for which it is False, without the cost of
    its picture.
    """

    name: str = ""
    live: bool = False
    one_size: bool = True
    once: bool = False  # opened again it does not begin anew: standard input, a pipe
    frame_count: int | None = None
    rate: Fraction = Fraction(30)
    time_base: Fraction = Fraction(1, 90_000)
    wanted: Callable[[int, Fraction], bool] = staticmethod(lambda index, time: True)
    damaged: int = 0  # frames that could not be decoded, which leave gaps in the indices, and frames that the decoder had to repair
    notes: Sequence[str] = ()  # what a user should know of how the frames were made, a line each

    def __iter__(self) -> Iterator[Frame]:
        raise NotImplementedError

    def interrupt(self) -> None:
        """Ask an iteration that runs in another thread to end soon."""

    def close(self) -> None:
        """Give back the file, camera or connection. A second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
