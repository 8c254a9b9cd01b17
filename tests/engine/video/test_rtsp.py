"""RTSP against a local server: the connection is cut, comes back with another size of picture, and goes away for good."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from engine.errors import SourceError
from engine.video import Frame, NetworkStream, Reader
from tests.engine.video.clips import collect, picture, pictures
from tests.engine.video.rtsp import encode, rtsp_server


def test_cut_and_return_in_another_size() -> None:
    frames = []
    with rtsp_server([encode(pictures(30)), encode(pictures(30, 128, 80))]) as url:
        source = NetworkStream(url, reconnects=2, pause=0.01)
        assert source.live
        with pytest.raises(SourceError, match=rf"{url}: lost after frame \d+, 2 attempts to reconnect failed: .*404"):
            collect(source, frames)
    shapes = [frame.image.shape for frame in frames]
    assert shapes == sorted(shapes)
    assert min(shapes.count((64, 96, 3)), shapes.count((80, 128, 3))) >= 25  # the last pictures may sit in the decoder when it is cut
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert all(later.timestamp > earlier.timestamp for earlier, later in itertools.pairwise(frames))
    assert np.abs(frames[0].image.astype(int) - picture(0)).mean() < 8


def test_newest_frame_through_the_reader() -> None:
    with rtsp_server([encode(pictures(60))]) as url:
        with Reader(NetworkStream(url, reconnects=0)) as reader:
            frames: list[Frame] = []
            with pytest.raises(SourceError, match="lost after frame"):
                collect(reader, frames)
        indices = [frame.index for frame in frames]
        assert indices == sorted(set(indices))
        assert reader.dropped + len(indices) >= 55
