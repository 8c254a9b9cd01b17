"""Containers with several video streams: the one that moves is tracked. And stills in tiles."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition

from engine.errors import SourceError
from engine.video import VideoFile, open_source
from tests.engine.video.clips import picture
from tests.engine.video.heic import tiled_heic


def write(path: Path, streams: list[tuple[int, int, int]], cover: int | None = None) -> Path:
    """A file with a stream for each (frames, width, height), in this order; `cover`: the number of the one that is a cover in JPEG."""
    with av.open(str(path), "w") as container:
        outputs = []
        for number, (_, width, height) in enumerate(streams):
            stream = container.add_stream("mjpeg" if number == cover else "libx264", rate=25)
            stream.width, stream.height = width, height
            stream.pix_fmt = "yuvj420p" if number == cover else "yuv420p"
            if number == cover:
                stream.disposition = Disposition.attached_pic.value
            outputs.append(stream)
        for number, (count, width, height) in enumerate(streams):
            for index in range(count):
                frame = av.VideoFrame.from_ndarray(picture(index, width, height), format="bgr24").reformat(format=outputs[number].pix_fmt)
                frame.pts, frame.time_base = index, Fraction(1, 25)
                container.mux(outputs[number].encode(frame))
            container.mux(outputs[number].encode(None))
    return path


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize(
    ("streams", "wanted"),
    [
        ([(1, 400, 400), (10, 96, 64)], (64, 96)),  # a still before the clip, and larger
        ([(10, 96, 64), (1, 400, 400)], (64, 96)),
        ([(10, 48, 32), (10, 96, 64)], (64, 96)),  # a preview before the clip
        ([(10, 96, 64), (10, 48, 32)], (64, 96)),
        ([(10, 96, 64), (10, 96, 64)], (64, 96)),
    ],
)
def test_the_largest_stream_that_moves(tmp_path: Path, name: str, streams: list[tuple[int, int, int]], wanted: tuple[int, int]) -> None:
    with VideoFile(write(tmp_path / name, streams)) as source:
        assert [frame.image.shape[:2] for frame in source] == [wanted] * 10
    assert source.frame_count == 10


@pytest.mark.parametrize("cover", [0, 1])
def test_cover_art(tmp_path: Path, cover: int) -> None:
    streams = [(10, 96, 64)]
    streams.insert(cover, (1, 300, 300))
    assert [frame.image.shape[:2] for frame in VideoFile(write(tmp_path / "a.mp4", streams, cover))] == [(64, 96)] * 10


def test_a_still_alone_is_read(tmp_path: Path) -> None:
    assert len(list(VideoFile(write(tmp_path / "a.mp4", [(1, 96, 64)])))) == 1
    cv2.imwrite(str(tmp_path / "a.png"), picture(3))
    (frame,) = open_source(tmp_path / "a.png")
    np.testing.assert_array_equal(frame.image, picture(3))


def test_a_still_in_tiles_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(tiled_heic(picture(0, 256, 192)))
    with pytest.raises(SourceError, match=r"a\.heic is a still picture in 4 parts .*convert it to JPEG or PNG"):
        open_source(tmp_path / "a.heic")


def test_a_folder_of_them_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "IMG_0001.HEIC").write_bytes(b"")
    with pytest.raises(SourceError, match=r"no images in .*\.heic files must be converted first"):
        open_source(tmp_path)
