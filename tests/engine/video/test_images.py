"""Picture files of more than 8 bits."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.errors import SourceError
from engine.training.layouts import Pictures
from engine.video import ImageFolder
from engine.video.images import ImageReader, Range
from tests.engine.video.clips import picture


def grey(index: int) -> np.ndarray:
    return cv2.cvtColor(picture(index), cv2.COLOR_BGR2GRAY)


@pytest.mark.parametrize(("bits", "shift"), [(8, 0), (10, 2), (12, 4), (14, 6), (16, 8)])
def test_the_bits_of_a_sensor_are_kept(tmp_path: Path, bits: int, shift: int) -> None:
    for index in range(3):
        image = grey(index).astype(np.uint16) << shift
        image[0, 0] = (1 << bits) - 1
        cv2.imwrite(str(tmp_path / f"{index}.png"), image)
    source = ImageFolder(tmp_path)
    for frame in source:
        assert frame.image.dtype == np.uint8
        np.testing.assert_array_equal(frame.image[1:], np.repeat(grey(frame.index)[1:, :, None], 3, axis=2))
    assert source.notes == [f"16-bit pictures: values 0 to {(1 << bits) - 1} are taken as 0 to 255"]


def test_a_heat_camera_s_few_values_become_a_picture(tmp_path: Path) -> None:
    """Hundredths of a kelvin around room temperature: everything within 300 of 65536 values."""
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), 29_300 + grey(index).astype(np.uint16) + (200 if index == 2 else 0))
    frames = [frame.image.astype(float) for frame in ImageFolder(tmp_path)]
    assert all(frame.std() > 0.4 * grey(0).std() for frame in frames[:2])
    assert frames[2].mean() > frames[1].mean() + 50  # one range for all: a warmer frame is brighter
    back = np.polyval(np.polyfit(frames[0][:, :, 0].ravel(), grey(0).ravel(), 1), frames[0][:, :, 0])
    assert np.abs(back - grey(0)).max() < 2


def test_every_reader_takes_the_range_of_the_first(tmp_path: Path) -> None:
    for index, brightest in enumerate((4000, 900, 60_000)):
        cv2.imwrite(str(tmp_path / f"{index}.tiff"), np.linspace(0, brightest, 64 * 64).reshape(64, 64).astype(np.uint16))
    paths = ImageFolder(tmp_path).paths
    in_turn = [frame.image for frame in ImageFolder(tmp_path)]
    files = Pictures(paths)
    for index in (2, 0, 1):
        np.testing.assert_array_equal(files[index], in_turn[index])
    np.testing.assert_array_equal(files[1:][1], in_turn[2])
    assert (in_turn[1].max(), in_turn[2].max()) == (900 >> 4, 255)
    assert ImageReader()(paths[1]).max() > 200


def test_floats_and_flat_pictures(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), np.full((8, 8), 700, np.uint16))
    assert next(iter(ImageFolder(tmp_path))).image.shape == (8, 8, 3)
    assert Range.of(np.zeros((4, 4), np.uint16)).to_bytes(np.full((4, 4), 9, np.uint16)).dtype == np.uint8
    cv2.imwrite(str(tmp_path / "0.tiff"), np.full((8, 8, 3), 100, np.float32))
    with pytest.raises(SourceError, match=r"0\.tiff holds values of the type float32"):
        ImageReader()(tmp_path / "0.tiff")
