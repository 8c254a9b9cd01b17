"""A clip from its end to its beginning, within bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction

from engine.errors import IncompleteError, SourceError
from engine.video.frames import Frame, Source
from engine.video.position import Position

_BYTES = 256 << 20  # of pictures that are held at once


class Backwards(Source):
    """The frames of a clip in reverse order, with the indices and times that they have in it.

    open_again: opens the clip; it is decoded once to learn its frames, and once more for every 256 MiB of pictures, as far as needed.
    start, end: the part of the clip that is given, `end` not included. SourceError for live sources, and those that can be read only once.
    """

    def __init__(self, open_again: Callable[[], Source], start: Position | None = None, end: Position | None = None) -> None:
        self._open, self._start, self._end = open_again, start, end
        self._stopped = False
        self._ended_early: IncompleteError | None = None
        with open_again() as source:
            if source.live:
                raise SourceError(f"{source.name}: a live source cannot be read backwards")
            if source.once:
                raise SourceError(f"{source.name} cannot be read backwards, since it can be read only once: save it to a file first")
            self.name, self.rate, self.time_base, self.frame_count = source.name, source.rate, source.time_base, source.frame_count
            self.one_size = source.one_size

    def __iter__(self) -> Iterator[Frame]:
        indices, frame_bytes = self._survey()
        at_once = max(8, _BYTES // max(1, frame_bytes))
        while indices and not self._stopped:
            indices, chunk = indices[:-at_once], indices[-at_once:]
            yield from reversed(self._read(chunk))
        if self._ended_early is not None:
            raise self._ended_early

    def interrupt(self) -> None:
        self._stopped = True

    def _survey(self) -> tuple[list[int], int]:
        """The indices of the part's frames, and the bytes of the first picture."""
        times: dict[int, Fraction] = {}
        frame_bytes = 0

        def note(index: int, time: Fraction) -> bool:
            first = not times
            times[index] = time
            return first

        with self._open() as source:
            source.wanted = note
            try:
                for frame in source:  # all of them, if the source passes none over
                    times[frame.index] = frame.timestamp
                    frame_bytes = frame_bytes or frame.image.nbytes
                    if self._stopped:
                        break
            except IncompleteError as error:
                self._ended_early = error
            self.damaged = source.damaged
        return [index for index, time in times.items() if self._has(index, time)], frame_bytes

    def _has(self, index: int, time: Fraction) -> bool:
        """Whether a frame belongs to the part."""
        return (self._start is None or self._start.reached(index, time)) and not (self._end is not None and self._end.reached(index, time))

    def _read(self, indices: list[int]) -> list[Frame]:
        """The frames with these indices; those that cannot be decoded are left out and count in `damaged`."""
        frames: list[Frame] = []
        first, last = indices[0], indices[-1]
        with self._open() as source:
            source.wanted = lambda index, time: index >= first
            for frame in source:
                if first <= frame.index <= last:
                    frames.append(frame)
                if frame.index >= last or self._stopped:
                    break
        if not self._stopped:
            self.damaged += len(indices) - len(frames)  # pictures that the survey counted without decoding them
        return frames
