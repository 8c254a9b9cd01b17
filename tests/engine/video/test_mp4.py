"""Annotated video: what browsers need, exact times, odd and changing sizes, and drawing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from engine.errors import ConfigError, SinkError
from engine.video import Frame, VideoFile
from engine.video import mp4 as mp4_module
from engine.video.draw import COLORS, draw, parse_color
from engine.video.mp4 import Mp4
from engine.video.sinks import Record, Sinks
from tests.engine.video.clips import picture

RECORD = Record(0, (20.0, 20.0, 24.0, 24.0), 0.9, "TRACKING", 1.0)


def plain(image: np.ndarray, records: Sequence[Record]) -> np.ndarray:
    return image


def write(path: Path, frames: list[Frame], rate: Fraction = Fraction(25), time_base: Fraction = Fraction(1, 25), annotate=plain) -> Path:
    height, width = frames[0].image.shape[:2]
    with Sinks([Mp4(path, width, height, rate, time_base, annotate)]) as sinks:
        for frame in frames:
            sinks.write(frame, [RECORD])
        sinks.finish({})
    return path


def test_playable_everywhere(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", [Frame(index, Fraction(index, 25), picture(index)) for index in range(30)])
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.frames) == ("h264", "yuv420p", 30)
        assert stream.codec_context.colorspace == 1  # BT.709, limited range: what browsers assume, and written in the file
        assert stream.codec_context.color_range == 1
    data = path.read_bytes()
    assert data.find(b"moov") < data.find(b"mdat")  # the index comes first: playback starts before the download ends
    for frame in VideoFile(path):
        assert np.abs(frame.image.astype(int) - picture(frame.index)).mean() < 8


def test_colours_come_back(tmp_path: Path) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (40, 140, 240)]
    frames = [Frame(index, Fraction(index, 25), np.full((32, 32, 3), colour, np.uint8)) for index, colour in enumerate(colours)]
    for frame, colour in zip(VideoFile(write(tmp_path / "a.mp4", frames)), colours, strict=True):
        assert np.abs(frame.image.astype(int) - colour).max() <= 10


@pytest.mark.parametrize(
    ("time_base", "rate", "times"),
    [
        (Fraction(1, 30_000), Fraction(30_000, 1001), [0, 1001, 2002, 3003, 4004]),
        (Fraction(1, 1000), Fraction(24), [0, 41, 42, 500, 30_000]),
        (Fraction(1001, 30_000), Fraction(30_000, 1001), [0, 1, 2, 3, 4]),
        (Fraction(1, 90_000), Fraction(30), [0, 2999, 6001, 9000, 99_000]),
    ],
)
def test_times_are_kept_exactly(tmp_path: Path, time_base: Fraction, rate: Fraction, times: list[int]) -> None:
    frames = [Frame(index, time * time_base, picture(index)) for index, time in enumerate(times)]
    path = write(tmp_path / "a.mp4", frames, rate, time_base)
    assert [frame.timestamp for frame in VideoFile(path)] == [frame.timestamp for frame in frames]


def test_times_that_stand_still_or_are_finer_than_the_unit_still_ascend(tmp_path: Path) -> None:
    frames = [Frame(index, Fraction(time), picture(index)) for index, time in enumerate([0, 0, Fraction(1, 10**9), 1])]
    written = [frame.timestamp for frame in VideoFile(write(tmp_path / "a.mp4", frames, time_base=Fraction(1, 10**9)))]
    assert written == sorted(set(written))
    assert written[-1] == 1


def test_odd_sizes_are_padded(tmp_path: Path) -> None:
    frames = [Frame(index, Fraction(index, 25), picture(index, 75, 51)) for index in range(5)]
    read = list(VideoFile(write(tmp_path / "a.mp4", frames)))
    assert read[0].image.shape == (52, 76, 3)
    assert np.abs(read[0].image[:51, :75].astype(int) - picture(0, 75, 51)).mean() < 8


def test_frames_of_other_sizes_are_fitted_in(tmp_path: Path) -> None:
    white = np.full((100, 20, 3), 255, np.uint8)
    frames = [Frame(0, Fraction(0), picture(0)), Frame(1, Fraction(1, 25), white), Frame(2, Fraction(2, 25), picture(2))]
    read = list(VideoFile(write(tmp_path / "a.mp4", frames)))
    assert [frame.image.shape for frame in read] == [(64, 96, 3)] * 3
    assert read[1].image[:, 46:50].min() > 200
    assert read[1].image[:, :30].max() < 40


@pytest.mark.parametrize("aspect", [Fraction(1), Fraction(4, 3), Fraction(12, 11), Fraction(8, 9)])
def test_anamorphic_frames_keep_their_shape(tmp_path: Path, aspect: Fraction) -> None:
    with Sinks([Mp4(tmp_path / "a.mp4", 96, 64, Fraction(25), Fraction(1, 25), plain, aspect)]) as sinks:
        sinks.write(Frame(0, Fraction(0), picture(0), aspect), RECORD)
        sinks.finish({})
    assert [frame.pixel_aspect for frame in VideoFile(tmp_path / "a.mp4")] == [aspect]


def test_single_frame(tmp_path: Path) -> None:
    assert len(list(VideoFile(write(tmp_path / "a.mp4", [Frame(0, Fraction(0), picture(0))])))) == 1


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with Sinks([Mp4(tmp_path / "a.mp4", 96, 64, Fraction(25), Fraction(1, 25), plain)]) as sinks:
            sinks.write(Frame(0, Fraction(0), picture(0)), RECORD)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert os.listdir(tmp_path) == []


def test_wrong_suffix_and_missing_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SinkError, match=r"written as \.mp4"):
        Mp4(tmp_path / "a.avi", 96, 64, Fraction(25), Fraction(1, 25), plain)
    monkeypatch.setattr(mp4_module.av, "codecs_available", {"mpeg4"})
    with pytest.raises(SinkError, match=r"no H\.264 encoder"):
        Mp4(tmp_path / "a.mp4", 96, 64, Fraction(25), Fraction(1, 25), plain)
    assert os.listdir(tmp_path) == []


def test_drawing_leaves_the_frame_alone_and_marks_the_box() -> None:
    image = np.zeros((240, 320, 3), np.uint8)
    drawn = draw(image, [Record(0, (100.4, 80.0, 50.0, 40.0), 0.5, "TRACKING", 1.0)], parse_color("#102030"))
    assert not image.any()
    assert tuple(drawn[100, 100]) == (0x30, 0x20, 0x10)
    assert not drawn[85:115, 105:145].any()
    lost = draw(image, [Record(0, (100.0, 80.0, 50.0, 40.0), 0.1, "LOST", 1.0)])
    assert tuple(lost[100, 100]) == COLORS["red"]


@pytest.mark.parametrize("box", [(-1e9, -5.0, 1e12, 3.0), (1e6, 1e6, 10.0, 10.0), (0.0, 0.0, 320.0, 240.0), (315.0, 235.0, 0.1, 0.1)])
@pytest.mark.parametrize("size", [(240, 320), (1, 1), (3, 2000)])
def test_any_box_can_be_drawn(box: tuple[float, float, float, float], size: tuple[int, int]) -> None:
    assert draw(np.zeros((*size, 3), np.uint8), [Record(0, box, 0.5, "UNCERTAIN", 1.0)]).shape == (*size, 3)


@pytest.mark.parametrize("text", ["pink-ish", "#12345", "#12345g", "", "12,3,4"])
def test_unknown_colours(text: str) -> None:
    with pytest.raises(ConfigError, match="color must be"):
        parse_color(text)
