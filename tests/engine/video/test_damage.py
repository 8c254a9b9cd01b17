"""Files with random damage: frames, or one clear error; never a crash, never more frames than there were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.errors import SourceError
from engine.video import Frame, VideoFile, open_source
from engine.video.completeness import is_cut_off
from tests.engine.video.clips import FASTSTART, collect, pictures, write_clip

CONTAINERS = {"mp4": FASTSTART, "matroska": {}, "avi": {}, "mpegts": {}}
FRAMES = 12


def read(path: Path) -> int:
    """The number of frames before the end or the error."""
    frames: list[Frame] = []
    message = str(path)
    try:
        with VideoFile(path) as source:
            collect(source, frames)
    except SourceError as error:
        message = str(error)
    assert str(path) in message
    assert all(frame.image.shape[2] == 3 and frame.image.dtype == np.uint8 for frame in frames)
    return len(frames)


@pytest.mark.parametrize("container", CONTAINERS)
def test_damaged_and_shortened_files(tmp_path: Path, container: str) -> None:
    codec = "mpeg4" if container == "avi" else "libx264"
    options = {"g": "6"} if codec == "libx264" else {}
    path = tmp_path / "clip.bin"
    write_clip(path, pictures(FRAMES), codec=codec, container=container, options=options, container_options=CONTAINERS[container])
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    assert read(path) == FRAMES
    assert not is_cut_off(path)
    for _ in range(12):
        data = bytearray(whole)
        for place in random.integers(0, len(data), random.integers(1, 30)):
            data[place] = random.integers(256)
        path.write_bytes(data)
        assert read(path) <= FRAMES + 1
        path.write_bytes(whole[: random.integers(1, len(whole))])
        assert read(path) <= FRAMES
        assert is_cut_off(path) in (True, False)


def test_bytes_that_were_never_a_video(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    for start in (b"", b"\x00\x00\x00\x18ftypisom", b"RIFF\xff\xff\xff\xffAVI LIST", b"\x1a\x45\xdf\xa3\x9f", b"\x47" * 188):
        path = tmp_path / "noise.mp4"
        path.write_bytes(start + random.bytes(3000))
        is_cut_off(path)
        with pytest.raises(SourceError, match=r"noise\.mp4"):
            list(open_source(path))
