"""Where a lost target is searched: bounded, deterministic, all over the frame."""

import math

from hypothesis import given
from hypothesis import strategies as st

from engine.tracking.search import WIDTHS, LostSearch

SIDES = st.integers(16, 4000)
BOXES = st.tuples(st.floats(-50, 4000), st.floats(-50, 4000), st.floats(10, 4000), st.floats(10, 4000))


def _size(box):
    return math.sqrt(box[2] * box[3])


@given(BOXES, SIDES, SIDES, st.integers(0, 500))
def test_every_search_is_bounded_and_repeatable(box, width, height, step):
    side = 4 * _size(box)
    searched = LostSearch(box, side, width, height).box(step)
    assert searched == LostSearch(box, side, width, height).box(step)
    assert _size(box) * (1 - 1e-9) <= _size(searched) <= WIDTHS[-1] * _size(box) * (1 + 1e-9)
    assert math.isclose(searched[2] / searched[3], box[2] / box[3])
    assert -1e-6 <= searched[0] + searched[2] / 2 <= width + 1e-6
    assert -1e-6 <= searched[1] + searched[3] / 2 <= height + 1e-6


def test_the_last_place_is_searched_in_widening_steps():
    box = (100.0, 80.0, 40.0, 30.0)
    search = LostSearch(box, 140.0, 640, 360)
    around = [search.box(step) for step in range(0, 12, 2)]
    assert around[0] == box
    assert [round(_size(found) / _size(box), 6) for found in around] == [1, 1.5, 2, 1, 1.5, 2]
    assert {(round(x + w / 2, 6), round(y + h / 2, 6)) for x, y, w, h in around} == {(120, 95)}


def test_the_scan_starts_nearby_and_covers_the_frame():
    box = (20.0, 20.0, 30.0, 30.0)
    search = LostSearch(box, 120.0, 640, 360)
    scan = [search.box(step) for step in range(1, 40, 2)]
    distances = [math.dist((35, 35), (x + w / 2, y + h / 2)) for x, y, w, h in scan[:10]]
    assert distances == sorted(distances)
    for point in ((0, 0), (639, 0), (320, 180), (0, 359), (639, 359)):
        # Within half of the region's half side: where the Hann window has not fallen below a half.
        assert any(max(abs(x + w / 2 - point[0]), abs(y + h / 2 - point[1])) <= 0.25 * 4 * w + 1e-6 for x, y, w, h in scan), point
