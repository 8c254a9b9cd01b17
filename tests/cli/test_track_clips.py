"""`esat track` with several targets, parts of clips, corrections, and many clips."""

from __future__ import annotations

import csv
import json
import os
import shutil
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from engine.cli import console
from engine.clips.given import boxes_for
from engine.clips.many import make_jobs
from engine.clips.outputs import clip_info
from engine.clips.run import Job
from engine.video import Frame, Source, VideoFile
from engine.video.draw import target_color
from tests.cli.run import esat
from tests.engine.video.clips import FASTSTART, picture, pictures, write_clip
from tests.engine.video.servers import http_server, send_file
from tests.require import require

BOX, OTHER = "10,20,24,24", "60,10,20,20"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return write_clip(tmp_path / "in" / "clip.mp4", pictures(12))


def rows(path: Path) -> list[dict]:
    return json.loads(path.read_text())["frames"]


def test_several_targets_in_every_output(clip: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"-o": "a.mp4", "--json": "a.json", "--jsonl": "a.jsonl", "--csv": "a.csv", "--txt": "a.txt", "--mot": "mot.txt"}
    names |= {"--coco": "coco.json", "--cvat": "a.xml", "--label-studio": "ls.json"}
    files = [part for option, name in names.items() for part in (option, tmp_path / "out" / name)]
    assert esat("track", clip, "--box", BOX, "--box", f"{OTHER}@0.16s", "--model", tiny, "--label", "ball", "--dtype", "fp32", *files) == 0
    assert "12 frames with tiny on cpu in fp32, 2 targets" in capsys.readouterr().out
    found = rows(tmp_path / "out" / "a.json")
    assert [(row["index"], row["id"]) for row in found] == [(i, t) for i in range(12) for t in ((1, 2) if i >= 4 else (1,))]
    assert [row["time"] for row in found if row["id"] == 1] == [index / 25 for index in range(12)]
    assert next(row for row in found if row["id"] == 2)["box"] == [60, 10, 20, 20]
    table = list(csv.DictReader((tmp_path / "out" / "a.csv").open()))
    assert [(int(row["frame"]), int(row["id"]), float(row["x"])) for row in table] == [(r["index"], r["id"], r["box"][0]) for r in found]
    mot = np.loadtxt(tmp_path / "out" / "mot.txt", delimiter=",")
    np.testing.assert_allclose(mot[:, :6], [[row["index"] + 1, row["id"], *row["box"]] for row in found], atol=6e-3)
    tracks = list(ElementTree.parse(tmp_path / "out" / "a.xml").getroot().iter("track"))
    assert [track.attrib["label"] for track in tracks] == ["ball", "ball"]
    assert len(json.loads((tmp_path / "out" / "coco.json").read_text())["images"]) == 12
    assert [len(r["value"]["labels"]) for r in json.loads((tmp_path / "out" / "ls.json").read_text())[0]["predictions"][0]["result"]] == [
        1,
        1,
    ]
    # What was written as text is what --boxes reads: the same targets begin where they began.
    again = tmp_path / "again.json"
    first = [line for line in (tmp_path / "out" / "a.txt").read_text().splitlines() if line.startswith(("0,1,", "4,2,"))]
    (tmp_path / "boxes.txt").write_text("\n".join(first))
    assert esat("track", clip, "--boxes", tmp_path / "boxes.txt", "--model", tiny, "--dtype", "fp32", "--json", again, "-q") == 0
    assert [row["box"] for row in rows(again)] == [row["box"] for row in found]


def test_targets_are_drawn_in_their_colours(clip: Path, tiny: Path, tmp_path: Path) -> None:
    assert esat("track", clip, "--box", BOX, "--box", OTHER, "--model", tiny, "-o", tmp_path / "a.mp4", "--max-frames", 1, "-q") == 0
    (frame,) = VideoFile(tmp_path / "a.mp4")
    for target, (x, y, w, h) in enumerate([(10, 20, 24, 24), (60, 10, 20, 20)], 1):
        edge = np.concatenate([frame.image[y + h, x : x + w], frame.image[y : y + h, x + w]]).astype(float).mean(axis=0)
        distances = [np.abs(edge - target_color(number)).sum() for number in (1, 2)]
        assert np.argmin(distances) == target - 1


def test_a_part_keeps_the_source_s_indices_and_times(clip: Path, tiny: Path, tmp_path: Path) -> None:
    files = ["--json", tmp_path / "a.json", "-o", tmp_path / "a.mp4"]
    assert esat("track", clip, "--box", BOX, "--start", "0.12s", "--end", "8", "--model", tiny, "-q", *files) == 0
    assert [(row["index"], row["time"]) for row in rows(tmp_path / "a.json")] == [(index, index / 25) for index in range(3, 8)]
    assert "id" not in rows(tmp_path / "a.json")[0]
    assert [frame.timestamp * 25 for frame in VideoFile(tmp_path / "a.mp4")] == [0, 1, 2, 3, 4]


def test_backwards_equals_forwards_over_the_reversed_pictures(clip: Path, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "turned").mkdir()
    frames = list(VideoFile(clip))
    for number, frame in enumerate(reversed(frames)):
        cv2.imwrite(str(tmp_path / "turned" / f"{number:02d}.png"), frame.image)
    video = tmp_path / "a.mp4"
    assert esat("track", clip, "--box", BOX, "--reverse", "--model", tiny, "-q", "--json", tmp_path / "a.json", "-o", video) == 0
    assert esat("track", tmp_path / "turned", "--box", BOX, "--model", tiny, "-q", "--json", tmp_path / "b.json") == 0
    found = rows(tmp_path / "a.json")
    assert [row["index"] for row in found] == list(range(11, -1, -1))
    assert [row["box"] for row in found] == [row["box"] for row in rows(tmp_path / "b.json")]
    assert [frame.timestamp * 25 for frame in VideoFile(video)] == list(range(12))


def test_a_later_box_corrects_its_target(clip: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "boxes.csv").write_text("frame,id,x,y,w,h\n2,7,10,20,24,24\n5,7,60,10,20,20\n0.32s,3,30,20,24,24\n99,4,1,1,9,9\n")
    assert esat("track", clip, "--boxes", tmp_path / "boxes.csv", "--model", tiny, "--json", tmp_path / "a.json") == 0
    found = rows(tmp_path / "a.json")
    assert [(row["index"], row["id"]) for row in found] == [(i, t) for i in range(2, 12) for t in ((7, 3) if i >= 8 else (7,))]
    corrected = next(row for row in found if row["index"] == 5)
    assert (corrected["box"], corrected["score"]) == ([60, 10, 20, 20], 1.0)
    assert "1 boxes are for frames that were not tracked" in capsys.readouterr().err


def test_a_wider_search_changes_the_region_and_nothing_else(tiny: Path) -> None:
    from engine import Tracker, TrackerConfig
    from engine.errors import ConfigError

    frame = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    regions = {}
    for factor in (None, 6.0):
        tracker = Tracker(tiny, "cpu", "fp32", TrackerConfig(search_factor=factor))
        tracker.init(frame, (150, 100, 40, 40))
        regions[factor] = tracker.update(frame).search_region[2]
        assert (tracker.model_config.template_size, tracker.model_config.search_size) == (128, 256)
    assert regions == {None: 160.0, 6.0: 240.0}
    with pytest.raises(ConfigError, match="the runner's is 6"):
        Tracker(tracker.runner, config=TrackerConfig(search_factor=5.0))


def test_without_a_terminal_there_is_a_line_now_and_then(
    clip: Path, tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_SECONDS_BETWEEN_LINES", 0.0)
    assert esat("track", clip, "--box", BOX, "--model", tiny, "--max-frames", 3) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" frames, ")[0] for line in lines] == [f"tracking: {number} of 3" for number in (1, 2, 3)]
    assert all("frames/s, score" in line for line in lines)
    assert esat("track", clip, "--box", BOX, "--model", tiny, "--max-frames", 3, "-q") == 0
    assert capsys.readouterr().err == ""


def test_drawing_several_boxes(clip: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.video.window.check_windows", lambda what: None)
    monkeypatch.setattr(cv2, "selectROIs", lambda *_, **__: np.array([[10, 20, 24, 24], [60, 10, 20, 20]]))
    monkeypatch.setattr(cv2, "destroyWindow", lambda title: None)
    assert esat("track", clip, "--select", "--model", tiny, "--json", tmp_path / "a.json", "--max-frames", 2, "-q") == 0
    assert [(row["id"], row["box"]) for row in rows(tmp_path / "a.json")][:2] == [(1, [10, 20, 24, 24]), (2, [60, 10, 20, 20])]


@pytest.fixture
def clips(clip: Path) -> list[Path]:
    shutil.copy(clip, clip.with_name("second.mp4"))
    clip.with_name("broken.mp4").write_bytes(b"no video")
    return sorted(clip.parent.glob("*.mp4"))


def test_many_clips_go_on_after_a_bad_one(clips: list[Path], tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "boxes.csv").write_text(f"clip,0,1,{BOX}\nclip,3,2,{OTHER}\nbroken.mp4,0,1,{BOX}\nsecond,0,5,{BOX}\n")
    out = tmp_path / "out"
    options = ["--boxes", tmp_path / "boxes.csv", "--output-dir", out, "--format", "json,cvat", "--format", "mp4", "--model", tiny]
    assert esat("track", *clips, *options) == 2
    printed = capsys.readouterr()
    assert [line.split(": ")[1].split(", ")[:2] for line in printed.out.splitlines()[:2]] == [
        ["12 frames", "2 targets"],
        ["12 frames", "1 target"],
    ]
    assert "3 clips, 1 failed" in printed.out
    assert [line.split(": failed: ")[0] for line in printed.err.splitlines()] == [str(clips[0])]
    names = [f"{name}{suffix}" for name in ("clip", "second") for suffix in (".cvat.xml", ".json", ".mp4")]
    assert sorted(path.name for path in out.iterdir()) == names
    assert {row["id"] for row in rows(out / "second.json")} == {5}


def test_a_folder_of_boxes_and_a_clip_without_any(
    clips: list[Path], tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes" / "second.txt").write_text(BOX)
    options = ["--boxes", tmp_path / "boxes", "--output-dir", tmp_path / "out", "--max-frames", 2, "-q", "--model", tiny]
    assert esat("track", clips[1], clips[2], *options) == 2
    assert "clip.txt" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["second.json"]


def test_clips_of_one_name_and_missing_boxes(clips: list[Path], tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert esat("track", clips[1], clips[1], "--box", BOX, "--model", tiny, "--output-dir", tmp_path / "out") == 2
    assert "would both be written to" in capsys.readouterr().err
    assert esat("track", clips[1], clips[2], "--model", tiny) == 2
    assert "either by --boxes FILE (or folder) or by --box" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_password_is_neither_shown_nor_stored(tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = write_clip(tmp_path / "a.mp4", pictures(12), container_options=FASTSTART).read_bytes()
    out = tmp_path / "out"
    names = {"--json": "a.json", "--coco": "coco.json", "--cvat": "a.xml", "--label-studio": "ls.json"}
    files = [part for option, name in names.items() for part in (option, out / name)]
    (tmp_path / "boxes.csv").write_text(f"clip.mp4,0,1,{BOX}\n")
    many = ["--boxes", tmp_path / "boxes.csv", "--output-dir", out, "--format", "json"]
    with http_server(lambda request, _: send_file(request, data)) as address:
        url = address.replace("//", "//admin:secret@") + "/clip.mp4"
        assert esat("track", url, "--box", BOX, "--box", f"{BOX}@99", "--model", tiny, "--max-frames", 2, *files) == 0
        assert esat("track", url, url.replace("clip", "none"), *many, "--model", tiny, "--max-frames", 2) == 2
        assert esat("track", url, url, *many, "--model", tiny) == 2
    assert (
        json.loads((out / "a.json").read_text())["source"] == json.loads((out / "clip.json").read_text())["source"] == f"{address}/clip.mp4"
    )
    assert json.loads((out / "coco.json").read_text())["videos"][0]["name"] == "clip.mp4"
    assert sorted(path.name for path in out.iterdir()) == ["a.json", "a.xml", "clip.json", "coco.json", "ls.json"]
    shown = "".join(capfd.readouterr())
    assert f"{address}/clip.mp4: 2 frames" in shown
    assert not [text for text in (shown, *(path.read_text() for path in out.iterdir())) if "secret" in text]


def test_a_camera_s_address_alone_names_its_files(tmp_path: Path) -> None:
    job = Job("", [])
    (made,) = make_jobs(["rtsp://admin:secret@camera"], tmp_path, ["json"], job)
    assert made.outputs == {"json": tmp_path / "camera.json"}
    assert boxes_for(made.source, {"camera": []}) == []
    assert clip_info(made.source, Frame(0, Fraction(0), picture(0)), Source(), "object", "").name == "camera"
    token = "a" * 300
    assert clip_info(f"http://camera/{token}", Frame(0, Fraction(0), picture(0)), Source(), "object", "").name == token


def test_a_folder_s_name_that_is_no_text(tiny: Path, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    for index in range(2):
        cv2.imwrite(str(tmp_path / "a.png"), picture(index))
        (tmp_path / "a.png").rename(folder / f"{index}.png")
    options = ["--json", tmp_path / "a.json", "--cvat", tmp_path / "a.xml", "--label", os.fsdecode(b"caf\xe9"), "-q"]
    assert esat("track", folder, "--box", BOX, "--model", tiny, *options) == 0
    assert json.loads((tmp_path / "a.json").read_text())["source"] == f"{tmp_path}/caf?"
    root = ElementTree.parse(tmp_path / "a.xml").getroot()
    assert [root.findtext("meta/task/name"), root.findtext("meta/task/labels/label/name")] == ["caf?", "caf?"]


@pytest.mark.slow
def test_many_clips_on_ray(clips: list[Path], tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import importlib.util

    require("ray", None if importlib.util.find_spec("ray") else "not installed: ray")
    (tmp_path / "boxes.csv").write_text(BOX)
    options = ["--boxes", tmp_path / "boxes.csv", "--output-dir", tmp_path / "out", "--model", tiny, "--ray", "local"]
    assert esat("track", *clips, *options) == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["clip.json", "second.json"]
    assert "broken.mp4: failed: " in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert esat("--version") == 0
    assert capsys.readouterr().out.startswith("esat ")
