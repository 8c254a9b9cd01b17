"""The host's view of a target whose boxes lie on the device, while frames are under way."""

from __future__ import annotations

import dataclasses
from collections import deque

from engine.boxes import Box
from engine.tracking.target import Target


@dataclasses.dataclass(frozen=True)
class Change:
    """What the host does to a target's boxes on the device in front of a frame: a box is written, or its two rows change places."""

    index: int  # of that frame
    row: int = 0  # 0 or 1
    box: Box | None = None  # None: the rows change places


@dataclasses.dataclass
class Followed:
    """A slot's target, the boxes that its rows on the device search around, and what happens to them with later frames."""

    target: Target
    stream: int
    boxes: list[Box]
    changes: deque[Change] = dataclasses.field(default_factory=deque)
    crossed: bool = (
        False  # whether the target's followed hypothesis lies in row 1: the rows change places with a frame that is still to be read
    )

    def order(self) -> tuple[int, int]:
        """The rows of the followed hypothesis and of what is beside it."""
        return (1, 0) if self.crossed else (0, 1)

    def reach(self, index: int) -> None:
        """Take note of what was done in front of the frames up to this one."""
        while self.changes and self.changes[0].index <= index:
            change = self.changes.popleft()
            if change.box is None:
                self.boxes.reverse()
                self.crossed = not self.crossed
            else:
                self.boxes[change.row] = change.box

    def ahead(self, index: int) -> list[Box]:
        """The boxes that the frame `index` searches around, if all before it have been read."""
        boxes = list(self.boxes)
        for change in self.changes:
            if change.index <= index and change.box is None:
                boxes.reverse()
            elif change.index <= index and change.box is not None:
                boxes[change.row] = change.box
        return boxes

    def moved_later(self, row: int) -> bool:
        """Whether a frame that is still to be read finds another box in this row than the device's own."""
        return any(change.box is None or change.row == row for change in self.changes)
