"""Where to look for a target that is lost: around its last place in widening steps, and in between over the whole frame."""

from __future__ import annotations

import math

from engine.boxes import Box

WIDTHS = (1.0, 1.5, 2.0)  # search regions around the last place, over the usual one; the widest bounds them all
MAX_CELLS = 16  # places that a scan of the whole frame visits at most, where the widest region allows it


class LostSearch:
    """The boxes to search around, one a frame, the same for equal arguments.

    Even steps stay at the last place and widen in turn: the target is most often found where it vanished. Odd steps visit the cells of a
    grid over the frame, the nearest ones first, then all over again. No box is larger than twice the last one, and every centre lies in
    the frame.

    last: the box where the target was last seen; region_side: side of the search region around it; both in pixels of the frame.
    """

    def __init__(self, last: Box, region_side: float, frame_width: int, frame_height: int):
        x, y, w, h = last
        self.frame_size = frame_width, frame_height
        self._size = w, h
        self._centre = min(max(x + 0.5 * w, 0.0), frame_width), min(max(y + 0.5 * h, 0.0), frame_height)
        # Neighbouring cells overlap by half a region: what lies at a region's edge is damped by the Hann window.
        grids = [(width, _grid(0.5 * width * region_side, frame_width, frame_height)) for width in WIDTHS]
        self._cell_width, cells = next((grid for grid in grids if len(grid[1]) <= MAX_CELLS), grids[-1])
        self._cells = sorted(cells, key=lambda cell: (math.dist(cell, self._centre), cell))

    def box(self, step: int) -> Box:
        """x, y, w, h to search around in frame `step` (from 0) after the loss."""
        turn, scanning = divmod(step, 2)
        width, (cx, cy) = (
            (self._cell_width, self._cells[turn % len(self._cells)]) if scanning else (WIDTHS[turn % len(WIDTHS)], self._centre)
        )
        w, h = (width * side for side in self._size)
        return cx - 0.5 * w, cy - 0.5 * h, w, h


def _grid(stride: float, width: int, height: int) -> list[tuple[float, float]]:
    """Centres of equal cells over the frame, at most `stride` apart."""
    columns, rows = (max(1, math.ceil(side / stride)) for side in (width, height))
    return [((column + 0.5) * width / columns, (row + 0.5) * height / rows) for row in range(rows) for column in range(columns)]
