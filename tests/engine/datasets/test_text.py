"""The one reader of boxes: what counts as a box, as none, and as a mistake."""

from __future__ import annotations

import numpy as np
import pytest

from engine.datasets.text import look_like_corners, read_box_file, read_boxes, read_names
from engine.errors import DatasetError
from engine.training.sources import read_clips
from engine.video import VideoFile
from tests.engine.evaluation import trees
from tests.require import require

NONE = [np.nan] * 4


def boxes_of(tmp_path, content: str | bytes) -> np.ndarray:
    path = tmp_path / "a.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_boxes(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("1,2,3,4\n5.5\t6\t7\t8\n", [[1, 2, 3, 4], [5.5, 6, 7, 8]]),
        ("1;2;3;4\r\n1 2  3, 4 \r\n", [[1, 2, 3, 4]] * 2),
        (b"\xef\xbb\xbf1,2,3,4\n", [[1, 2, 3, 4]]),
        ("1,2,3,4\n\nnan\nNaN,NaN,NaN,NaN\n5,6,7,8\n", [[1, 2, 3, 4], NONE, NONE, NONE, [5, 6, 7, 8]]),
        ("\n1,2,3,4\n\n\n", [NONE, [1, 2, 3, 4]]),  # empty lines at the end are no frames
        ("1,2,3,nan\n", [[1, 2, 3, np.nan]]),
        ("10,20,30,20,30,50,10,50\n1,2,3,4\n", [[10, 20, 20, 30], [1, 2, 3, 4]]),
    ],
)
def test_lines(tmp_path, content, expected):
    np.testing.assert_array_equal(boxes_of(tmp_path, content), expected)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("1,2,3,4\n1,2,3,4,0.9\n", "line 2: expected four finite numbers x,y,w,h, got '1,2,3,4,0.9': .* a score"),
        ("1,2,3,4,5,6\n", "line 1: expected four"),
        ("1,2,3,4,5,6,7,nan\n", "line 1: expected four"),
        ("1,2,3,4\n1,2,,\n", "line 2: expected four"),
        ("0.25,0.25,0.5,0.5\n0.3,0.25,1,0.5\n", "fractions of the image"),
        ("m10,20,3,4\n", "line 1: expected x,y,w,h"),
    ],
)
def test_mistakes_name_the_line(tmp_path, content, words):
    with pytest.raises(DatasetError, match=words):
        boxes_of(tmp_path, content)


def test_zeros_and_ones_are_no_fractions(tmp_path):
    assert boxes_of(tmp_path, "0,0,0,0\n1,1,1,1\n").shape == (2, 4)


def test_polygons_become_the_box_of_the_vot_toolkit(tmp_path):
    try:
        from vot.region.shapes import Polygon, Rectangle
    except ImportError as error:
        require("toolkits", str(error))
    rng = np.random.default_rng(0)
    polygons = rng.uniform(-20, 300, (20, 4, 2))
    (tmp_path / "a.txt").write_text("".join(",".join(f"{value:.17g}" for value in polygon.ravel()) + "\n" for polygon in polygons))
    boxes, seen = read_box_file(tmp_path / "a.txt")
    assert seen
    for box, polygon in zip(boxes, polygons, strict=True):
        theirs = Rectangle.convert(Polygon([tuple(point) for point in polygon]))
        assert box == pytest.approx([theirs.x, theirs.y, theirs.width, theirs.height], rel=1e-5)  # the toolkit keeps float32


def test_corners_are_told_from_sizes():
    sizes = np.array([[10 + 5 * step, 20, 30, 25] for step in range(10)], float)
    corners = sizes.copy()
    corners[:, 2:] += corners[:, :2]
    far = corners + np.array([200, 150, 200, 150])
    assert look_like_corners(far, 320, 240)
    far[3], far[4] = np.nan, 0
    assert look_like_corners(far, 320, 240)
    assert not look_like_corners(sizes, 320, 240)
    assert not look_like_corners(corners, 320, 240)  # they fit as sizes too
    assert not look_like_corners(np.full((3, 4), np.nan), 320, 240)


def test_names_may_hold_spaces_and_lists_a_byte_order_mark(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfred car\r\n\r\n dog 2 \n")
    assert read_names(path) == ["red car", "dog 2"]


def test_training_reads_the_same_boxes(tmp_path):
    content = "30;20;16;16\n\nnan\n10,20,40,20,40,36,10,36\n30\t20\t16\t16\n30 20 16 16\n"
    trees.video(tmp_path)
    (tmp_path / "clip.txt").write_text(content)
    trees.video(tmp_path, "clip2")  # its boxes are not those of `clip`
    (first,) = read_clips(tmp_path)["clip"]
    np.testing.assert_array_equal(first.boxes, boxes_of(tmp_path, content))
    assert first.valid.tolist() == [0, 3, 4, 5]
    (tmp_path / "clip.txt").write_text("1,2,3,4,5\n" * 6)
    with pytest.raises(DatasetError, match="line 1"):
        read_clips(tmp_path)


def test_training_reads_videos_as_everything_else_does(tmp_path):
    path = trees.video(tmp_path)
    ((clip,),) = read_clips(tmp_path).values()
    with VideoFile(path) as source:
        assert all(np.array_equal(frame.image, own) for frame, own in zip(source, clip.frames, strict=True))
