"""Files for annotation tools: what their readers make of them."""

from __future__ import annotations

import importlib.util
import json
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from engine.video import Frame
from engine.video.annotations import ClipInfo, TrackFile
from engine.video.coco import CocoVideo
from engine.video.cvat import CvatVideo
from engine.video.label_studio import LabelStudioVideo
from engine.video.sinks import Record, Sinks
from tests.require import require

CLIP = ClipInfo("walk.mp4", 200, 100, Fraction(25), 12, lambda index: f"walk/{index:06d}.jpg", "person", "tiny")
IMAGE = np.zeros((100, 200, 3), np.uint8)
# Target 1 is lost in frames 4 and 5; target 5 begins in frame 6. Frames 2 to 8 of 12 were tracked.
STATES = {2: "TRACKING", 3: "UNCERTAIN", 4: "LOST", 5: "LOST", 6: "TRACKING", 7: "TRACKING", 8: "TRACKING"}


def box(index: int, target: int) -> tuple[float, float, float, float]:
    return (10.0 * target + index, 20.0, 40.0, 25.0)


def records(index: int) -> list[Record]:
    both = [Record(index, box(index, 1), 0.75, STATES[index], 1.0, 1)]
    return both + ([Record(index, box(index, 5), 0.5, "TRACKING", 1.0, 5)] if index >= 6 else [])


def written(sink: TrackFile, backwards: bool = False) -> str:
    assert sink.target is not None
    with Sinks([sink]) as sinks:
        for index in sorted(STATES, reverse=backwards):
            sinks.write(Frame(index, Fraction(index, 25), IMAGE), records(index))
        sinks.finish({})
    return Path(sink.target).read_text()


@pytest.mark.parametrize("kind", [CocoVideo, CvatVideo, LabelStudioVideo])
def test_backwards_gives_the_same_file(kind: type[TrackFile], tmp_path: Path) -> None:
    assert written(kind(tmp_path / "a", CLIP)) == written(kind(tmp_path / "b", CLIP), backwards=True)


def test_coco_has_the_keys_of_cocovid_and_tao(tmp_path: Path) -> None:
    content = json.loads(written(CocoVideo(tmp_path / "a.json", CLIP)))
    assert content["videos"] == [{"id": 1, "name": "walk.mp4", "width": 200, "height": 100, "fps": 25.0, "length": 12}]
    assert content["categories"] == [{"id": 1, "name": "person"}]
    assert [track["id"] for track in content["tracks"]] == [1, 5]
    image = {"id": 3, "video_id": 1, "file_name": "walk/000002.jpg", "width": 200, "height": 100}
    assert content["images"][0] == {**image, "frame_id": 2, "frame_index": 2, "time": 0.08}
    assert len(content["images"]) == 7
    by_image = {entry["image_id"]: entry for entry in content["annotations"] if entry["track_id"] == 1}
    assert sorted(by_image) == [3, 4, 7, 8, 9]  # none while it is lost
    assert by_image[4]["bbox"] == [13.0, 20.0, 40.0, 25.0]
    assert (by_image[4]["area"], by_image[4]["instance_id"], by_image[4]["video_id"]) == (1000.0, 1, 1)
    assert len({entry["id"] for entry in content["annotations"]}) == len(content["annotations"]) == 8


def test_pycocotools_reads_coco(tmp_path: Path) -> None:
    require("pycocotools", None if importlib.util.find_spec("pycocotools") else "not installed: pycocotools")
    from pycocotools.coco import COCO

    written(CocoVideo(tmp_path / "a.json", CLIP))
    read = COCO(str(tmp_path / "a.json"))
    assert read.loadCats(read.getCatIds())[0]["name"] == "person"
    assert [entry["track_id"] for entry in read.loadAnns(read.getAnnIds(imgIds=[7]))] == [1, 5]


def as_cvat_reads(text: str) -> list[dict[str, object]]:
    """Tracks as CVAT's importer builds them: key frames only, required attributes required."""
    tracks = []
    for track in ElementTree.fromstring(text).iter("track"):
        shapes = [
            {
                "frame": int(element.attrib["frame"]),
                "outside": element.attrib["outside"] == "1",
                "occluded": element.attrib["occluded"] == "1",
                "points": [float(element.attrib[name]) for name in ("xtl", "ytl", "xbr", "ybr")],
            }
            for element in track.iter("box")
            if element.attrib["keyframe"] == "1"
        ]
        tracks.append({"label": track.attrib["label"], "shapes": shapes})
    return tracks


def visible(shapes: list[dict], length: int) -> list[int]:
    """The frames in which CVAT shows a track: from each key frame to the next, unless it is outside."""
    shown, frames = False, []
    by_frame = {shape["frame"]: shape for shape in shapes}
    for frame in range(length):
        shown = not by_frame[frame]["outside"] if frame in by_frame else shown
        frames += [frame] if shown else []
    return frames


def test_cvat_shows_each_target_where_it_was_seen(tmp_path: Path) -> None:
    text = written(CvatVideo(tmp_path / "a.xml", CLIP))
    first, second = as_cvat_reads(text)
    assert first["label"] == second["label"] == "person"
    assert visible(first["shapes"], 12) == [2, 3, 6, 7, 8]
    assert visible(second["shapes"], 12) == [6, 7, 8]
    assert [shape["frame"] for shape in first["shapes"] if shape["occluded"]] == [3]
    assert first["shapes"][1]["points"] == [13.0, 20.0, 53.0, 45.0]
    root = ElementTree.fromstring(text)
    assert [element.tag for element in root][:2] == ["version", "meta"]
    assert (root.findtext("version"), root.findtext("meta/task/size"), root.findtext("meta/task/mode")) == ("1.1", "12", "interpolation")
    assert root.findtext("meta/task/labels/label/name") == "person"


def test_a_clip_of_unknown_length_ends_with_its_last_frame(tmp_path: Path) -> None:
    text = written(CvatVideo(tmp_path / "a.xml", ClipInfo("camera", 200, 100, Fraction(25), None, str)))
    assert max(shape["frame"] for track in as_cvat_reads(text) for shape in track["shapes"]) == 8


def test_label_studio_shows_each_target_where_it_was_seen(tmp_path: Path) -> None:
    (task,) = json.loads(written(LabelStudioVideo(tmp_path / "a.json", CLIP)))
    assert task["data"] == {"video": "walk.mp4"}
    first, second = task["predictions"][0]["result"]
    assert (first["type"], first["from_name"], first["to_name"]) == ("videorectangle", "box", "video")
    assert first["value"]["labels"] == ["person"]
    assert (first["value"]["framesCount"], first["value"]["duration"]) == (12, 0.48)
    sequence = first["value"]["sequence"]
    assert [item["frame"] for item in sequence] == [3, 4, 7, 8, 9]  # from 1
    assert [item["enabled"] for item in sequence] == [True, False, True, True, False]  # the last one before each gap
    item = {"frame": 4, "enabled": False, "rotation": 0, "x": 6.5, "y": 20.0, "width": 20.0, "height": 25.0, "time": 0.12}
    assert sequence[1] == item
    assert [item["frame"] for item in second["value"]["sequence"]] == [7, 8, 9]


def test_label_studio_has_percent_of_each_picture_of_a_folder(tmp_path: Path) -> None:
    with Sinks([sink := LabelStudioVideo(tmp_path / "a.json", CLIP)]) as sinks:
        for index, image in enumerate((IMAGE, np.zeros((50, 400, 3), np.uint8))):
            sinks.write(Frame(index, Fraction(index, 25), image), [Record(index, (20.0, 10.0, 40.0, 25.0), 0.75, "TRACKING", 1.0, 1)])
        sinks.finish({})
    assert sink.target is not None
    (result,) = json.loads(sink.target.read_text())[0]["predictions"][0]["result"]
    shown = [[item[key] for key in ("x", "y", "width", "height")] for item in result["value"]["sequence"]]
    assert shown == [[10.0, 10.0, 20.0, 25.0], [5.0, 20.0, 10.0, 50.0]]


def test_label_studio_s_own_check_takes_it(tmp_path: Path) -> None:
    require("label-studio", None if importlib.util.find_spec("label_studio_sdk") else "not installed: label-studio-sdk")
    from label_studio_sdk.label_interface import LabelInterface

    interface = LabelInterface(
        '<View><Video name="video" value="$video"/><VideoRectangle name="box" toName="video"/>'
        '<Labels name="videoLabels" toName="video"><Label value="person"/></Labels></View>'
    )
    (task,) = json.loads(written(LabelStudioVideo(tmp_path / "a.json", CLIP)))
    assert interface.validate_prediction(task["predictions"][0])
    task["predictions"][0]["result"][0]["from_name"] = "nothing"
    assert not interface.validate_prediction(task["predictions"][0])
