"""Places in a clip, parts of it, and clips read backwards."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest

from engine.errors import ConfigError, SourceError
from engine.video import Frame, ImageFolder, VideoFile, backwards, open_source
from engine.video.backwards import Backwards
from engine.video.position import Position, parse_position, section
from tests.engine.video.clips import picture, pictures, write_clip


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("48", Position(index=48)),
        ("0", Position(index=0)),
        ("2s", Position(seconds=Fraction(2))),
        ("0.04s", Position(seconds=Fraction(1, 25))),
        ("01:02.5", Position(seconds=Fraction(125, 2))),
        ("00:01:02.5", Position(seconds=Fraction(125, 2))),
        ("1:00:00", Position(seconds=Fraction(3600))),
    ],
)
def test_places(text: str, place: Position) -> None:
    assert parse_position(text, "--start") == place


@pytest.mark.parametrize("text", ["", "s", "-1", "1.5", "2 s", "1:2:3:4", "nan", "1e3s", "1s2"])
def test_what_is_no_place(text: str) -> None:
    with pytest.raises(ConfigError, match="--start must be a frame such as 48 or a time"):
        parse_position(text, "--start")


def test_a_part_keeps_indices_and_exact_times_and_reads_no_further(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", pictures(20), rate=Fraction(30_000, 1001))
    video = VideoFile(path)
    start = Position(seconds=Fraction(1, 5))
    video.wanted = start.reached
    frames = list(section(video, start, Position(index=10)))
    assert [(frame.index, frame.timestamp) for frame in frames] == [(index, index * Fraction(1001, 30_000)) for index in range(6, 10)]
    assert abs(frames[0].image.astype(int) - picture(6)).mean() < 8


def test_what_is_passed_over_is_not_made(tmp_path: Path) -> None:
    for index in range(4):
        cv2.imwrite(str(tmp_path / f"{index}.png"), picture(index))
    (tmp_path / "0.png").write_bytes(b"damaged")
    folder = ImageFolder(tmp_path)
    folder.wanted = Position(index=1).reached
    assert [frame.index for frame in folder] == [1, 2, 3]


@pytest.mark.parametrize("held", [1 << 30, 1])  # bytes at once: all frames, or eight
def test_backwards_gives_the_same_frames(held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backwards, "_BYTES", held)
    path = write_clip(tmp_path / "a.mp4", pictures(30), options={"bf": "2", "g": "7"})
    forward = list(VideoFile(path))
    for start, end, expected in ((None, None, forward), (Position(index=5), Position(seconds=Fraction(1)), forward[5:25])):
        found = list(Backwards(lambda: VideoFile(path), start, end))
        assert [(frame.index, frame.timestamp) for frame in found] == [(frame.index, frame.timestamp) for frame in reversed(expected)]
        assert all((one.image == other.image).all() for one, other in zip(found, reversed(expected), strict=True))


def test_a_live_source_cannot_be_read_backwards(tmp_path: Path) -> None:
    class Live(VideoFile):
        live = True

    path = write_clip(tmp_path / "a.mp4", pictures(2))
    with pytest.raises(SourceError, match="cannot be read backwards"):
        Backwards(lambda: Live(path))


def test_backwards_gives_each_image_once_where_one_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backwards, "_BYTES", 1)
    for index in range(20):
        cv2.imwrite(str(tmp_path / f"{index}.png"), picture(index))
    for damaged in (5, 11):  # within the middle chunk of 8, and its last one
        (tmp_path / f"{damaged}.png").write_bytes(b"damaged")
    source = Backwards(lambda: ImageFolder(tmp_path))
    assert [frame.index for frame in source] == [index for index in range(19, -1, -1) if index not in (5, 11)]
    assert source.damaged == 2


def test_what_can_be_read_only_once_cannot_be_read_backwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "a.mkv", pictures(2))
    with path.open("rb") as file:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=file, isatty=lambda: False))
        with pytest.raises(SourceError, match=r"standard input cannot be read backwards.*only once"):
            Backwards(lambda: open_source("-"))


def test_a_place_before_the_first_frame_is_passed() -> None:
    first = Frame(10, Fraction(10, 25), picture(0))
    rate = Fraction(25)
    assert Position(index=9).passed(first, rate)
    assert not Position(index=10).passed(first, rate)
    assert Position(seconds=Fraction(9, 25)).passed(first, rate)
    assert not Position(seconds=Fraction(19, 50)).passed(first, rate)  # shown within the frame's time
    assert Position(index=11).passed(first, rate, backwards=True)
    assert Position(seconds=Fraction(11, 25)).passed(first, rate, backwards=True)
