"""Image folders: order, kinds of images, damage."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.errors import SourceError
from engine.video import ImageFolder, open_source
from engine.video.listing import natural_key
from tests.engine.video.clips import picture


def fill(folder: Path, names: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for index, name in enumerate(names):
        cv2.imwrite(str(folder / name), picture(index))
    return folder


def test_natural_order() -> None:
    names = ["frame10.png", "frame9.png", "Frame2.png", "frame1b.png", "frame1.png", "a.png", "02.png", "2.png", "1.png"]
    assert sorted(names, key=natural_key) == sorted(reversed(names), key=natural_key)
    assert sorted(names, key=natural_key)[:3] == ["1.png", "02.png", "2.png"]
    assert sorted(names, key=natural_key)[-3:] == ["Frame2.png", "frame9.png", "frame10.png"]


def test_frames_follow_the_numbers_and_other_files_are_passed_over(tmp_path: Path) -> None:
    folder = fill(tmp_path / "img", ["1.png", "2.png", "10.png"])
    (folder / "groundtruth.txt").write_text("1,2,3,4\n")
    (folder / "._1.png").write_bytes(b"resource fork")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (folder / name).write_bytes(b"left by a file manager")
    source = open_source(folder)
    frames = list(source)
    assert source.frame_count == len(frames) == 3
    assert [frame.timestamp for frame in frames] == [Fraction(index, 30) for index in range(3)]
    for frame in frames:
        np.testing.assert_array_equal(frame.image, picture(frame.index))


def test_sizes_and_kinds_of_images_may_differ(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), picture(0))
    cv2.imwrite(str(tmp_path / "2.png"), picture(1, 50, 70)[:, :, 0])
    cv2.imwrite(str(tmp_path / "3.png"), picture(2).astype(np.uint16) * 256)
    cv2.imwrite(str(tmp_path / "4.png"), np.dstack([picture(3), np.full((64, 96), 128, np.uint8)]))
    frames = list(ImageFolder(tmp_path))
    assert [frame.image.shape for frame in frames] == [(64, 96, 3), (70, 50, 3), (64, 96, 3), (64, 96, 3)]
    assert all(frame.image.dtype == np.uint8 for frame in frames)
    np.testing.assert_array_equal(frames[2].image, picture(2))
    np.testing.assert_array_equal(frames[3].image, picture(3))


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no images in"):
        open_source(tmp_path)


def test_a_folder_above_the_images_gets_a_hint(tmp_path: Path) -> None:
    fill(tmp_path / "img", ["1.jpg"])
    with pytest.raises(SourceError, match=r"did you mean .*img\?"):
        open_source(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n then nothing"])
def test_an_unreadable_image_is_passed_over_like_a_packet_of_a_video(tmp_path: Path, content: bytes) -> None:
    """What was tracked before it is not lost for it; only without the first frame there is nothing to begin with."""
    fill(tmp_path, ["1.png", "2.png", "3.png"])
    (tmp_path / "2.png").write_bytes(content)
    source = ImageFolder(tmp_path)
    assert [frame.index for frame in source] == [0, 2]
    assert source.damaged == 1
    (tmp_path / "1.png").write_bytes(content)
    with pytest.raises(SourceError, match=r"frame 0: .*1\.png is not an image"):
        list(ImageFolder(tmp_path))
