"""Video files: exact times, rotation, pixel formats, and damaged clips."""

from __future__ import annotations

import gc
import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from engine.errors import SourceError
from engine.video import Reader, VideoFile, open_source
from tests.engine.video.clips import FASTSTART, cut, picture, pictures, write_clip


def difference(image: np.ndarray, wanted: np.ndarray) -> float:
    assert image.shape == wanted.shape
    assert image.dtype == np.uint8
    return float(np.abs(image.astype(int) - wanted).mean())


def test_every_frame_in_order_with_exact_times(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", pictures(20), rate=Fraction(30_000, 1001), options={"crf": "10", "bf": "2"})
    with open_source(path) as source:
        assert source.frame_count == 20
        assert source.rate == Fraction(30_000, 1001)
        assert not source.live
        frames = list(source)
    assert [frame.index for frame in frames] == list(range(20))
    assert [frame.timestamp for frame in frames] == [index * Fraction(1001, 30_000) for index in range(20)]
    assert max(difference(frame.image, picture(frame.index)) for frame in frames) < 6


def test_variable_frame_rate_keeps_each_time(tmp_path: Path) -> None:
    times = [1000, 1040, 1041, 1200, 3000, 3033]  # milliseconds; the first one is the clip's zero
    write_clip(tmp_path / "a.mkv", pictures(6), time_base=Fraction(1, 1000), pts=lambda index: times[index])
    frames = list(VideoFile(tmp_path / "a.mkv"))
    assert [frame.timestamp for frame in frames] == [Fraction(time - 1000, 1000) for time in times]


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (-90, 3), (180, 2)])
def test_rotation_is_applied(tmp_path: Path, rotation: int, turns: int) -> None:
    write_clip(tmp_path / "a.mp4", pictures(3), rotation=rotation, options={"crf": "10"})
    frames = list(VideoFile(tmp_path / "a.mp4"))
    assert frames[2].image.flags.c_contiguous
    assert difference(frames[2].image, np.rot90(picture(2), turns)) < 6


@pytest.mark.parametrize("pixels", ["yuv420p10le", "yuv444p", "yuvj420p", "gray"])
def test_pixel_formats_become_bgr(tmp_path: Path, pixels: str) -> None:
    write_clip(tmp_path / "a.mp4", pictures(3), pixels=pixels, options={"crf": "8"})
    wanted = picture(2)
    if pixels == "gray":
        wanted = np.repeat((wanted @ np.array([0.114, 0.587, 0.299]))[..., None], 3, axis=2)
    frames = list(VideoFile(tmp_path / "a.mp4"))
    assert difference(frames[2].image, wanted) < 6


@pytest.mark.parametrize("name", ["a.avi", "a.mkv", "a.mov", "a.ts", "a.webm"])
def test_other_containers(tmp_path: Path, name: str) -> None:
    codec = {"a.avi": "mpeg4", "a.webm": "libvpx"}.get(name, "libx264")
    write_clip(tmp_path / name, pictures(10), codec=codec)
    frames = list(VideoFile(tmp_path / name))
    assert len(frames) == 10
    assert all(abs(frame.timestamp - frame.index / Fraction(25)) < Fraction(1, 900) for frame in frames)


def test_a_stream_of_bytes() -> None:
    buffer = write_clip(io.BytesIO(), pictures(5), container="matroska")
    buffer.seek(0)
    assert len(list(VideoFile(buffer, "memory"))) == 5


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_cut_clip_gives_its_frames_and_then_says_where_it_ends(tmp_path: Path, name: str) -> None:
    whole = write_clip(tmp_path / name, pictures(60, 160, 120), options={"crf": "1", "g": "12"}, container_options=FASTSTART)
    seen = []
    with pytest.raises(SourceError, match=r"cut off after frame \d+") as caught:
        seen.extend(VideoFile(cut(whole)))
    assert 10 < len(seen) < 50
    assert f"after frame {len(seen)}" in str(caught.value)


def test_clip_cut_before_its_index(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "a.mp4", pictures(30))
    with pytest.raises(SourceError, match="cut off or damaged"):
        VideoFile(cut(whole))


def test_damaged_pictures_are_repaired_and_counted(tmp_path: Path) -> None:
    data = bytearray(write_clip(tmp_path / "a.mp4", pictures(60, 160, 120), options={"crf": "1"}, container_options=FASTSTART).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300] = np.random.default_rng(1).bytes(300)
    (tmp_path / "b.mp4").write_bytes(data)
    source = VideoFile(tmp_path / "b.mp4")
    assert len(list(source)) == 60
    assert source.damaged > 0


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "none.mp4", "no such file: .*none.mp4"),
        (lambda folder: write(folder / "empty.mp4", b""), "empty.mp4 is empty"),
        (lambda folder: write(folder / "text.mp4", b"no video\n" * 100), "cannot open .*text.mp4: not a video"),
        (lambda folder: write(folder / "notes.txt", b"no video\n" * 100), "notes.txt"),
        (lambda folder: write(folder / "sub.mp4", b"1\n00:00:01,000 --> 00:00:02,000\nhello\n\n" * 20), "sub.mp4"),
        (lambda folder: write_sound(folder / "sound.wav"), "sound.wav holds no video"),
        (lambda folder: "ftp://host/a.mp4", "cannot read ftp:// URLs"),
    ],
)
def test_what_is_no_video(tmp_path: Path, make, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        list(open_source(make(tmp_path)))


def write_sound(path: Path) -> Path:
    import wave

    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(8000))
    return path


def test_public_clip_with_ground_truth_has_a_frame_a_line(shared: Path) -> None:
    clip = shared / "data" / "train_video" / "davis_camel.mp4"
    lines = clip.with_suffix(".txt").read_text().split()
    assert sum(1 for _ in VideoFile(clip)) == len(lines)


def test_handles_are_given_back(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "a.mp4", pictures(10, 160, 120), options={"crf": "1"}, container_options=FASTSTART)
    damaged = cut(whole)

    def handles() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    gc.collect()  # what earlier tests left must not be given back in the middle
    before = handles()
    for _ in range(10):
        with Reader(open_source(whole)) as reader:
            assert next(iter(reader)).index == 0
        with Reader(open_source(damaged)) as reader, pytest.raises(SourceError):
            list(reader)
    assert handles() <= before
