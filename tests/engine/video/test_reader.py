"""The reading thread: order, bounds, both policies, errors, stop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest

from engine.errors import SourceError
from engine.video import Frame, Reader, Source

IMAGE = np.zeros((2, 2, 3), np.uint8)


class Numbers(Source):
    """Frames 0 .. count-1. Before frame n it waits for `gates[n]`; after the last it raises `error`, or sets `done`."""

    def __init__(self, count: int, *, live: bool = False, error: Exception | None = None, gates: dict[int, threading.Event] | None = None):
        self.count, self.live, self.error, self.gates = count, live, error, gates or {}
        self.given = 0
        self.done = threading.Event()
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self.count):
            if index in self.gates:
                assert self.gates[index].wait(10)
            self.given += 1
            yield Frame(index, Fraction(index), IMAGE)
        self.done.set()
        if self.error:
            raise self.error

    def close(self) -> None:
        self.closed.set()


def test_every_frame_in_order_and_the_source_is_closed() -> None:
    source = Numbers(50)
    with Reader(source, capacity=3) as reader:
        assert reader.policy == "every"
        assert [frame.index for frame in reader] == list(range(50))
        assert reader.dropped == 0
        assert list(reader) == []
    assert source.closed.is_set()


def test_reading_ahead_is_bounded() -> None:
    source = Numbers(50)
    reader = Reader(source, capacity=3)
    frames = iter(reader)
    assert next(frames).index == 0
    assert not source.done.wait(0.1)
    assert source.given <= 1 + 3 + 1  # taken, waiting, and the one in the thread's hand
    reader.close()
    assert source.closed.is_set()
    assert list(reader) == []


def test_newest_frame_for_live_sources() -> None:
    gate = threading.Event()
    source = Numbers(21, live=True, gates={20: gate})
    with Reader(source) as reader:
        assert reader.policy == "newest"
        frames = iter(reader)
        taken = [next(frames).index]
        while taken[-1] < 19:  # the thread never waits for us: after a few frames we are given the last one before the gate
            taken.append(next(frames).index)
        assert taken == sorted(set(taken))
        gate.set()
        assert next(frames).index == 20
        assert next(frames, None) is None
        assert reader.dropped == 21 - len(taken) - 1


def test_a_slow_reader_skips_to_the_newest() -> None:
    source = Numbers(100, live=True)
    with Reader(source) as reader:
        assert source.done.wait(10)
        assert [frame.index for frame in reader] == [99]
        assert reader.dropped == 99


def test_error_comes_after_the_frames_before_it() -> None:
    with Reader(Numbers(5, error=SourceError("damaged after frame 5"))) as reader:
        frames = iter(reader)
        assert [next(frames).index for _ in range(5)] == list(range(5))
        with pytest.raises(SourceError, match="damaged after frame 5"):
            next(frames)


def test_stop_ends_the_wait_for_a_frame_that_never_comes() -> None:
    gate = threading.Event()
    asked = []
    reader = Reader(Numbers(2, gates={1: gate}), stop=lambda: len(asked) > 2 or asked.append(1) is not None)
    frames = iter(reader)
    assert next(frames).index == 0
    assert next(frames, None) is None
    gate.set()
    reader.close()


@pytest.mark.parametrize(("arguments", "message"), [({"capacity": 0}, "at least 1"), ({"policy": "oldest"}, "'every' or 'newest'")])
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        Reader(Numbers(1), **arguments)
