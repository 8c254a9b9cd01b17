"""Boxes as users write them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from engine.clips.given import Given, boxes_for, parse_boxes, read_given, read_given_of_clips
from engine.errors import BoxError, ConfigError
from engine.video.position import Position


def file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "boxes.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_options() -> None:
    box = (1.0, 2.0, 3.0, 4.5)
    given = parse_boxes(["1,2,3,4.5", "1 2 3 4.5@48", "1,2,3,4.5@00:01:02.5"])
    assert given == [Given(1, box), Given(2, box, Position(index=48)), Given(3, box, Position(seconds=Fraction(125, 2)))]
    with pytest.raises(ConfigError, match="the place in --box"):
        parse_boxes(["1,2,3,4@"])


@pytest.mark.parametrize("separator", [",", ";", "\t", " "])
def test_lines_of_a_file(separator: str, tmp_path: Path) -> None:
    text = "\ufeffframe,id,x,y,w,h\n# a note\n\n0,3,1,2,3,4\n2.5s,9,5,6,7,8\n7,3,2,2,3,4\n".replace(",", separator)
    given = read_given(file(tmp_path, text))
    assert given == [
        Given(3, (1, 2, 3, 4), Position(index=0)),
        Given(9, (5, 6, 7, 8), Position(seconds=Fraction(5, 2))),
        Given(3, (2, 2, 3, 4), Position(index=7)),
    ]


def test_lines_of_boxes_only(tmp_path: Path) -> None:
    assert read_given(file(tmp_path, "1,2,3,4\n5,6,7,8\n")) == [Given(1, (1, 2, 3, 4)), Given(2, (5, 6, 7, 8))]


def test_lines_of_several_clips(tmp_path: Path) -> None:
    path = file(tmp_path, "clip,frame,id,x,y,w,h\na.mp4,0,1,1,2,3,4\nb,5,2,5,6,7,8\na.mp4,9,2,1,2,3,4\n")
    clips = read_given_of_clips(path)
    assert {name: len(given) for name, given in clips.items()} == {"a.mp4": 2, "b": 1}
    assert boxes_for("in/b.mp4", clips) == clips["b"]
    assert boxes_for("in/a.mp4", clips) == clips["a.mp4"]
    assert boxes_for("in/c.mp4", clips) is None
    both = read_given_of_clips(file(tmp_path, "a.mp4,0,1,1,2,3,4\na,5,2,5,6,7,8\na,0,3,1,2,3,4\n"))
    assert [entry.target for entry in boxes_for("in/a.mp4", both) or ()] == [1, 2, 3]
    with pytest.raises(BoxError, match="target 1 has two boxes for the same frame"):
        boxes_for("a.mp4", read_given_of_clips(file(tmp_path, "a.mp4,0,1,1,2,3,4\na,0,1,5,6,7,8\n")))
    with pytest.raises(BoxError, match="boxes of 2 clips, but one is tracked"):
        read_given(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no boxes"),
        ("frame,id,x,y,w,h\n", "holds no boxes"),
        ("0,1,2,3,4\n", "line 1: expected clip,frame,id"),
        ("0,1,1,2,3,4\n1,2,3,4\n", "line 2: expected clip,frame,id"),
        ("1,1,1,2,3,4,0.9,-1,-1,-1\n", "line 1: expected clip,frame,id"),
        ("0,one,1,2,3,4\n", "line 1: expected an integer id"),
        ("0,1,1,2,3,four\n", "line 1: expected an integer id and four numbers"),
        ("0,-1,1,2,3,4\n", "line 1: an id must be 0 or more"),
        ("-1,1,1,2,3,4\n", "line 1: the frame must be a frame such as 48"),
        ("0,1,1,2,3,4\n0,1,1,2,3,4\n", "target 1 has two boxes for the same frame"),
    ],
)
def test_what_cannot_be_read(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BoxError, match=message):
        read_given(file(tmp_path, text))
