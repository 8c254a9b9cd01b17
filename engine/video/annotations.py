"""Base of the files that annotation tools read: a whole clip's tracks, written at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from engine.video.frames import Frame
from engine.video.sinks import Record, TextFile

LOST = "LOST"


@dataclasses.dataclass(frozen=True)
class ClipInfo:
    """What such files say of the clip.

    width, height: of its first frame. frame_count: None where the source does not know. picture: the file name of a frame's picture.
    """

    name: str
    width: int
    height: int
    rate: Fraction
    frame_count: int | None
    picture: Callable[[int], str]
    label: str = "object"  # the class of every target
    model: str = ""


@dataclasses.dataclass(frozen=True)
class TrackedFrame:
    """A frame that was tracked: its index in the source (from 0), seconds since the source's first frame, and its size."""

    index: int
    time: Fraction
    width: int
    height: int


class TrackFile(TextFile):
    """Collects frames and tracks, and prints what `render` makes of them. Frames are sorted, also where the clip was gone through backwards."""

    def __init__(self, target: Path, clip: ClipInfo) -> None:
        super().__init__(target)
        self.clip = clip
        self._frames: list[TrackedFrame] = []
        self._tracks: dict[int, list[Record]] = {}

    def write(self, frame: Frame, records: Sequence[Record]) -> None:
        height, width = frame.image.shape[:2]
        self._frames.append(TrackedFrame(frame.index, frame.timestamp, width, height))
        for record in records:
            self._tracks.setdefault(record.target, []).append(record)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._frames.sort(key=lambda seen: seen.index)
        for track in self._tracks.values():
            track.sort(key=lambda record: record.index)
        self._print(self.render(self._frames, dict(sorted(self._tracks.items()))))
        super().finish(summary)

    def render(self, frames: Sequence[TrackedFrame], tracks: Mapping[int, Sequence[Record]]) -> str:
        """The file's text. frames: in ascending order; tracks: by target id, each in ascending order."""
        raise NotImplementedError

    def length(self, frames: Sequence[TrackedFrame]) -> int:
        """How many frames the whole clip has, as far as is known."""
        seen = frames[-1].index + 1 if frames else 0
        return max(seen, self.clip.frame_count or 0)
