"""The loop: records, times, limits, stop."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.errors import SourceError
from engine.video import Frame
from engine.video.session import Session, follow
from engine.video.sinks import Record, Sink, Sinks

FRAMES = [Frame(index, Fraction(index, 25), np.full((4, 4, 3), index, np.uint8)) for index in range(6)]


class Fake:
    """A tracker whose box is the frame's number."""

    def init(self, frame: np.ndarray, box: Any) -> None:
        self.started = box

    def update(self, frame: np.ndarray) -> Any:
        number = float(frame[0, 0, 0])
        return SimpleNamespace(box=(number, 0.0, 1.0, 1.0), score=0.5, state="UNCERTAIN", timings_ms={"network": 2.0})


class Keep(Sink):
    def __init__(self) -> None:
        self.records: list[Record] = []

    def write(self, frame: Frame, record: Record) -> None:
        assert frame.index == record.index
        self.records.append(record)


def run(**options: Any) -> tuple[list[Record], Session]:
    keep, session = Keep(), Session()
    follow(Fake(), FRAMES[0], iter(FRAMES[1:]), (1.0, 1.0, 2.0, 2.0), Sinks([keep]), session, **options)
    return keep.records, session


def test_one_record_a_frame() -> None:
    records, session = run()
    assert [record.box[0] for record in records] == [1.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert [record.state for record in records] == ["TRACKING"] + ["UNCERTAIN"] * 5
    assert (records[0].score, session.frames, session.network_ms) == (1.0, 6, 10.0)
    fps = session.fps()
    assert fps["network"] == 500.0
    assert list(fps) == ["network", "tracker", "pipeline"]
    assert session.tracker_ms <= session.pipeline_ms


@pytest.mark.parametrize("limit", [1, 3, 6, 100])
def test_max_frames(limit: int) -> None:
    records, session = run(max_frames=limit)
    assert len(records) == session.frames == min(limit, 6)
    assert (session.fps()["network"] is None) == (limit == 1)


def test_stop_after_the_frame_at_hand() -> None:
    seen: list[int] = []
    records, session = run(on_record=lambda frame, record: seen.append(frame.index), stop=lambda: len(seen) == 3)
    assert seen == [0, 1, 2] == [record.index for record in records]
    assert session.interrupted


def test_an_error_of_the_source_leaves_the_session_right() -> None:
    def failing():
        yield from FRAMES[1:3]
        raise SourceError("gone")

    session = Session()
    with pytest.raises(SourceError, match="gone"):
        follow(Fake(), FRAMES[0], failing(), (1.0, 1.0, 2.0, 2.0), Sinks(), session)
    assert session.frames == 3
