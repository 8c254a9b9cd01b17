"""The boxes that a user gives: which target, where, from which frame on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path

from engine.boxes import Box, check_box
from engine.errors import BoxError, ConfigError
from engine.video.frames import Frame, Source
from engine.video.names import without_password
from engine.video.position import Position, parse_position

_COLUMNS = ("clip", "frame", "id", "x", "y", "w", "h")


@dataclasses.dataclass(frozen=True)
class Given:
    """A target's box (x, y, w, h in pixels). at: the frame or time that shows it; None: the first frame that is tracked.

    A second box for an id corrects that target from there on.
    """

    target: int
    box: Box
    at: Position | None = None

    def is_due(self, frame: Frame, backwards: bool = False) -> bool:
        """Whether a run that has come to `frame` has come to the box too: `Position.reached`."""
        return self.at is None or self.at.reached(frame.index, frame.timestamp, backwards)

    def is_past(self, first: Frame, rate: Fraction, backwards: bool = False) -> bool:
        """Whether a run that begins with `first` never comes to the box: `Position.passed`."""
        return self.at is not None and self.at.passed(first, rate, backwards)


def parse_boxes(texts: Iterable[str]) -> list[Given]:
    """`X,Y,W,H` or `X,Y,W,H@PLACE` (a frame or a time) for each target; ids are 1, 2, ... in this order. BoxError, ConfigError."""
    given = []
    for target, text in enumerate(texts, 1):
        numbers, at_sign, place = text.partition("@")
        at = parse_position(place, f"the place in --box {text!r}") if at_sign else None
        given.append(Given(target, parse_box(numbers), at))
    return given


def parse_box(text: str) -> Box:
    """`X,Y,W,H` as four numbers; BoxError for anything else. Whether it fits the frame is for the tracker to say."""
    try:
        x, y, w, h = (float(part) for part in text.replace(" ", ",").split(",") if part)
    except ValueError as error:
        raise BoxError(f"--box must be four numbers X,Y,W,H in pixels, such as 205,151,17,50, got {text!r}") from error
    return x, y, w, h


def read_given(path: Path) -> list[Given]:
    """The boxes of one clip from a file; see `read_given_of_clips` for its lines. BoxError if it names several clips."""
    clips = read_given_of_clips(path)
    if len(clips) > 1:
        raise BoxError(f"{path} has boxes of {len(clips)} clips, but one is tracked: give all of them, or a file for this one")
    return next(iter(clips.values()))


def read_given_of_clips(path: Path) -> dict[str, list[Given]]:
    """Boxes by the name of their clip, "" where lines name none, in the order of the file.

    Lines are `clip,frame,id,x,y,w,h`, `frame,id,x,y,w,h` or `x,y,w,h` (first frame; ids 1, 2, ... in order), all of one kind. frame: an index
    from 0, or a time such as 2.5s. Commas, semicolons, tabs or spaces separate; a header, blank lines and those that begin with # are passed
    over. BoxError names the line of what cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BoxError(f"cannot read boxes from {path}: {getattr(error, 'strerror', None) or error}") from error
    clips: dict[str, list[Given]] = {}
    columns = 0
    for number, line in enumerate(lines, 1):
        cells = _cells(line)
        if not cells or line.lstrip().startswith("#"):
            continue
        if not clips and tuple(cell.lower() for cell in cells) == _COLUMNS[-len(cells) :]:
            continue
        where = f"{path}, line {number}"
        columns = columns or len(cells)
        if len(cells) not in (4, 6, 7) or len(cells) != columns:
            raise BoxError(f"{where}: expected clip,frame,id,x,y,w,h or frame,id,x,y,w,h or x,y,w,h, the same in every line, got {line!r}")
        clip = cells[0] if columns == 7 else ""
        of_clip = clips.setdefault(clip, [])
        of_clip.append(_given(cells, len(of_clip) + 1, where))
    if not clips:
        raise BoxError(f"{path} holds no boxes")
    for of_clip in clips.values():
        _check_unique(of_clip, path)
    return clips


def check_given(given: Iterable[Given], first: Frame, source: Source, backwards: bool = False) -> None:
    """BoxError for a box that no tracker can start from. Where frames differ in size, only those of the first frame can be checked yet."""
    height, width = first.image.shape[:2]
    for entry in given:
        if source.one_size or (entry.is_due(first, backwards) and not entry.is_past(first, source.rate, backwards)):
            check_box(entry.box, width, height)


def boxes_for(clip: str, table: Mapping[str, list[Given]]) -> list[Given] | None:
    """The boxes of a clip from a table of several, by its path, its file name, and its name without the suffix; None: there are none. BoxError
    where lines under two of these names give a target two boxes for one frame."""
    path = Path(without_password(clip))
    names = dict.fromkeys(name for name in (clip, without_password(clip), path.name, path.stem) if name in table)
    found = [entry for name in names for entry in table[name]]
    _check_unique(found, path)
    return found if names else None


def _cells(line: str) -> list[str]:
    for separator in (",", ";", "\t"):
        if separator in line:
            return [cell.strip() for cell in line.split(separator)]
    return line.split()


def _given(cells: list[str], count: int, where: str) -> Given:
    try:
        x, y, w, h = (float(cell) for cell in cells[-4:])
        if len(cells) == 4:
            return Given(count, (x, y, w, h))
        target = int(cells[-5])
    except ValueError as error:
        raise BoxError(f"{where}: expected an integer id and four numbers, got {','.join(cells)!r}") from error
    if target < 0:
        raise BoxError(f"{where}: an id must be 0 or more, got {target}")
    try:
        return Given(target, (x, y, w, h), parse_position(cells[-6], f"{where}: the frame"))
    except ConfigError as error:
        raise BoxError(str(error)) from error


def _check_unique(given: list[Given], path: Path) -> None:
    seen = set()
    for entry in given:
        if (key := (entry.target, entry.at)) in seen:
            raise BoxError(f"{path}: target {entry.target} has two boxes for the same frame")
        seen.add(key)
