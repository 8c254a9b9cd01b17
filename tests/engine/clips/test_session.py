"""The loop: records, times, limits, stop."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.clips.given import Given
from engine.clips.session import Session, follow
from engine.errors import SourceError
from engine.video import Frame
from engine.video.position import Position
from engine.video.sinks import Record, Sink, Sinks

FRAMES = [Frame(index, Fraction(index, 25), np.full((4, 4, 3), index, np.uint8)) for index in range(6)]


class Fake:
    """A tracker whose boxes are the frame's number and the target's; it remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, float]] = []
        self.ids: list[int] = []

    def add(self, frame: np.ndarray, box: Any) -> int:
        self.ids.append(10 + len(self.ids))
        self.told.append(("add", int(frame[0, 0, 0]), box[0]))
        return self.ids[-1]

    def restart(self, target_id: int, frame: np.ndarray, box: Any) -> None:
        assert target_id in self.ids
        self.told.append(("restart", int(frame[0, 0, 0]), box[0]))

    def update(self, frame: np.ndarray) -> Any:
        number = float(frame[0, 0, 0])
        return {
            target: SimpleNamespace(box=(number, float(target), 1.0, 1.0), score=0.5, state="UNCERTAIN", timings_ms={"network": 2.0})
            for target in self.ids
        }


class Keep(Sink):
    def __init__(self) -> None:
        self.rows: list[list[Record]] = []

    def write(self, frame: Frame, records: Sequence[Record]) -> None:
        assert all(frame.index == record.index for record in records)
        self.rows.append(list(records))


BOX = (1.0, 1.0, 2.0, 2.0)


def run(
    given: Sequence[Given] = (Given(1, BOX),), frames: Sequence[Frame] = FRAMES, **options: Any
) -> tuple[list[list[Record]], Session, Fake]:
    keep, session, tracker = Keep(), Session(), Fake()
    follow(tracker, frames, given, Sinks([keep]), session, **options)
    return keep.rows, session, tracker


def test_one_record_a_frame() -> None:
    rows, session, _ = run()
    records = [record for (record,) in rows]
    assert [record.box[0] for record in records] == [1.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert [record.state for record in records] == ["TRACKING"] + ["UNCERTAIN"] * 5
    assert (records[0].score, session.frames, session.network_ms) == (1.0, 6, 10.0)
    fps = session.fps()
    assert fps["network"] == 500.0
    assert list(fps) == ["network", "tracker", "pipeline"]
    assert session.tracker_ms <= session.pipeline_ms


@pytest.mark.parametrize("limit", [1, 3, 6, 100])
def test_max_frames(limit: int) -> None:
    rows, session, _ = run(max_frames=limit)
    assert len(rows) == session.frames == min(limit, 6)
    assert (session.fps()["network"] is None) == (limit == 1)


def test_stop_after_the_frame_at_hand() -> None:
    seen: list[int] = []
    rows, session, _ = run(on_frame=lambda frame, records: seen.append(frame.index), stop=lambda: len(seen) == 3)
    assert seen == [0, 1, 2] == [record.index for (record,) in rows]
    assert session.interrupted


def test_an_error_of_the_source_leaves_the_session_right() -> None:
    def failing():
        yield from FRAMES[:3]
        raise SourceError("gone")

    session = Session()
    with pytest.raises(SourceError, match="gone"):
        follow(Fake(), failing(), [Given(1, BOX)], Sinks(), session)
    assert session.frames == 3


def ids(rows: list[list[Record]]) -> list[list[int]]:
    return [[record.target for record in records] for records in rows]


def test_targets_begin_and_are_corrected_where_their_boxes_are() -> None:
    given = [
        Given(7, (1.0, 0.0, 2.0, 2.0), Position(index=2)),
        Given(3, (2.0, 0.0, 2.0, 2.0), Position(seconds=Fraction(3, 25))),
        Given(7, (3.0, 0.0, 2.0, 2.0), Position(index=4)),
    ]
    rows, session, tracker = run(given)
    assert ids(rows) == [[], [], [7], [7, 3], [7, 3], [7, 3]]
    assert tracker.told == [("add", 2, 1.0), ("add", 3, 2.0), ("restart", 4, 3.0)]
    assert [(record.box[0], record.score) for record in rows[4]] == [(3.0, 1.0), (4.0, 0.5)]
    assert [record.box for record in rows[5]] == [(5.0, 10.0, 1.0, 1.0), (5.0, 11.0, 1.0, 1.0)]
    assert (session.unused, session.tracked) == ([], 3)


def test_backwards_a_box_is_due_at_or_before_its_place() -> None:
    given = [Given(1, BOX, Position(index=3)), Given(2, BOX, Position(seconds=Fraction(3, 50)))]
    rows, session, _ = run(given, FRAMES[::-1], backwards=True)
    assert ids(rows) == [[], [], [1], [1], [1, 2], [1, 2]]
    assert session.unused == []


def test_boxes_of_frames_that_do_not_come_are_told() -> None:
    early, late, there = (Given(number, BOX, Position(index=index)) for number, index in enumerate((1, 99, 4), 1))
    rows, session, _ = run([early, late, there], FRAMES[2:])
    assert ids(rows) == [[], [], [3], [3]]
    assert session.unused == [early, late]


def test_a_time_just_before_the_first_frame_is_that_frame() -> None:
    rows, session, _ = run([Given(1, BOX, Position(seconds=Fraction(7, 100)))], FRAMES[2:], rate=Fraction(25))
    assert ids(rows) == [[1]] * 4
    assert session.unused == []


def test_a_frame_that_was_skipped_does_not_lose_its_box() -> None:
    rows, _, _ = run([Given(1, BOX, Position(index=2))], [FRAMES[0], FRAMES[1], FRAMES[4], FRAMES[5]])
    assert ids(rows) == [[], [], [1], [1]]
