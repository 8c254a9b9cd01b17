"""Turned and flipped pictures: the eight display matrices of videos and the eight EXIF orientations of images, for every reader of either."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from engine.video import ImageFolder, VideoFile, open_source
from engine.video.images import ImageReader
from engine.video.orientation import is_sideways, turned, upright
from tests.engine.video.clips import picture, pictures, write_clip

# What the stored picture must go through to be upright: EXIF's number, the display matrix's a, b, c, d, and the same in NumPy.
ORIENTATIONS = {
    1: ((1, 0, 0, 1), lambda image: image),
    2: ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    3: ((-1, 0, 0, -1), lambda image: image[::-1, ::-1]),
    4: ((1, 0, 0, -1), lambda image: image[::-1]),
    5: ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
    6: ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    7: ((0, -1, -1, 0), lambda image: np.rot90(image, 2).swapaxes(0, 1)),
    8: ((0, -1, 1, 0), lambda image: np.rot90(image)),
}


def with_matrix(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """An mp4 whose track header holds this matrix (16.16 fixed point)."""
    a, b, c, d = (value << 16 for value in matrix)
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def jpeg(image: np.ndarray, orientation: int) -> bytes:
    tiff = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x112, 3, 1, orientation, 0) + bytes(4)
    body = b"Exif\0\0" + tiff
    data = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, 98))[1].tobytes()
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


@pytest.mark.parametrize("number", ORIENTATIONS)
def test_display_matrices(tmp_path: Path, number: int) -> None:
    matrix, wanted = ORIENTATIONS[number]
    path = with_matrix(write_clip(tmp_path / "a.mp4", pictures(2), options={"crf": "10"}), matrix)
    for frame in VideoFile(path):
        expected = wanted(picture(frame.index))
        assert frame.image.shape == expected.shape
        assert frame.image.flags.c_contiguous
        assert np.abs(frame.image.astype(int) - expected).mean() < 6


@pytest.mark.parametrize("number", ORIENTATIONS)
def test_exif_orientations_agree_with_them(tmp_path: Path, number: int) -> None:
    (tmp_path / "1.jpg").write_bytes(jpeg(picture(0), number))
    expected = ORIENTATIONS[number][1](picture(0))
    for image in (
        next(iter(ImageFolder(tmp_path))).image,
        next(iter(open_source(tmp_path / "1.jpg"))).image,
        ImageReader()(tmp_path / "1.jpg"),
    ):
        assert image.shape == expected.shape
        assert np.abs(image.astype(int) - expected).mean() < 6


@pytest.mark.parametrize("quarters", range(4))
def test_quarter_turns(quarters: int) -> None:
    image = picture(0)
    np.testing.assert_array_equal(upright(image, turned(quarters)), np.rot90(image, quarters))
    assert is_sideways(turned(quarters)) == bool(quarters % 2)


def test_frames_whose_side_data_pyav_does_not_know(tmp_path: Path) -> None:
    """FFmpeg attaches EXIF as a kind of side data that some versions of PyAV refuse; the frames themselves are good."""
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
        for index in range(3):
            packet = av.Packet(jpeg(picture(index), 8))
            packet.pts = packet.dts = index
            packet.stream, packet.time_base, packet.is_keyframe = stream, stream.time_base or av.time_base, True
            container.mux(packet)
    frames = list(VideoFile(tmp_path / "a.avi"))
    assert len(frames) == 3
    assert np.abs(frames[2].image.astype(int) - np.rot90(picture(2))).mean() < 6


@pytest.mark.parametrize(("matrix", "aspect"), [((1, 0, 0, 1), (4, 3)), ((0, 1, -1, 0), (3, 4)), ((-1, 0, 0, 1), (4, 3))])
def test_a_pixel_s_aspect_turns_with_the_picture(tmp_path: Path, matrix: tuple[int, int, int, int], aspect: tuple[int, int]) -> None:
    path = write_clip(tmp_path / "a.mp4", pictures(2), pixel_aspect=(4, 3))
    shown = next(iter(VideoFile(with_matrix(path, matrix)))).pixel_aspect
    assert (shown.numerator, shown.denominator) == aspect
