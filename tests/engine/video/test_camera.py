"""Cameras: one that a file stands for, and none at all."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from engine.errors import IncompleteError, SourceError
from engine.video import Camera, open_source
from tests.engine.video.clips import pictures, write_clip


def test_frames_until_the_camera_stops(tmp_path: Path) -> None:
    camera = Camera(str(write_clip(tmp_path / "a.mp4", pictures(10))))
    assert camera.live
    assert camera.rate == 25
    given = iter(camera)
    frames = [next(given) for _ in range(10)]
    with pytest.raises(IncompleteError, match="stopped giving frames after frame 10"), camera:
        next(given)
    assert [frame.index for frame in frames] == list(range(10))
    assert frames[0].timestamp == 0
    assert all(later.timestamp > earlier.timestamp for earlier, later in itertools.pairwise(frames))


def test_a_camera_without_a_frame_has_nothing_to_keep(tmp_path: Path) -> None:
    with Camera(str(write_clip(tmp_path / "a.mp4", pictures(1)))) as camera:
        camera._capture.read()
        with pytest.raises(SourceError, match="after frame 0") as caught:
            next(iter(camera))
    assert not isinstance(caught.value, IncompleteError)


def test_no_such_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for source in (61, "61", "/dev/video61"):
        with pytest.raises(SourceError, match="camera 61"):
            open_source(source)


def test_a_file_with_a_number_for_a_name_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "a.mp4", pictures(3)).rename(tmp_path / "61")
    assert len(list(open_source("61"))) == 3
