"""JSON, JSON lines and text: content, and that a file appears only when it is complete."""

from __future__ import annotations

import csv
import json
import os
import resource
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from engine.errors import SinkError
from engine.video import Frame
from engine.video.sinks import BoxText, Csv, JsonFile, JsonLines, MotText, Record, Sinks, StdoutJsonLines

FRAME = Frame(0, Fraction(0), np.zeros((4, 4, 3), np.uint8))
RECORDS = [Record(index, (1.5 + index, 2.25, 10.0, 20.00049), 1 / (1 + index), "TRACKING", 12.3456) for index in range(3)]


def fill(sinks: Sinks, records: list[Record] = RECORDS) -> None:
    for record in records:
        sinks.write(FRAME, [record])


def test_json_file_has_the_contract_s_keys(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.json"
    with Sinks([JsonFile(path, {"model": "tiny", "device": "cpu"})]) as sinks:
        fill(sinks)
        assert not path.exists()
        sinks.finish({"fps": {"network": 10.0}})
    content = json.loads(path.read_text())
    assert list(content) == ["model", "device", "frames", "fps"]
    assert content["frames"][1] == {
        "index": 1,
        "time": 0.0,
        "box": [2.5, 2.25, 10.0, 20.0],
        "score": 0.5,
        "state": "TRACKING",
        "latency_ms": 12.346,
    }
    assert [frame["index"] for frame in content["frames"]] == [0, 1, 2]
    assert os.listdir(path.parent) == ["a.json"]


@pytest.mark.parametrize(("header", "records"), [({}, []), ({}, RECORDS), ({"model": "tiny"}, [])])
def test_json_file_without_header_or_frames_is_valid(tmp_path: Path, header: dict, records: list[Record]) -> None:
    with Sinks([JsonFile(tmp_path / "a.json", header)]) as sinks:
        fill(sinks, records)
        sinks.finish({})
    assert len(json.loads((tmp_path / "a.json").read_text())["frames"]) == len(records)


def test_lines(tmp_path: Path) -> None:
    with Sinks([BoxText(tmp_path / "a.txt"), JsonLines(tmp_path / "a.jsonl")]) as sinks:
        fill(sinks)
        sinks.finish({})
    np.testing.assert_allclose(np.loadtxt(tmp_path / "a.txt", delimiter=","), [record.box for record in RECORDS], atol=6e-4)
    assert [json.loads(line)["index"] for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [0, 1, 2]


PAIR = [Record(4, (1.5, 2.25, 10.0, 20.0), 0.5, "TRACKING", 12.5, target) for target in (3, 8)]
LATER = Frame(4, Fraction(1001 * 4, 30_000), FRAME.image)


def test_several_targets_have_ids_in_every_text(tmp_path: Path) -> None:
    sinks = [
        BoxText(tmp_path / "a.txt", with_ids=True),
        MotText(tmp_path / "a.mot"),
        Csv(tmp_path / "a.csv"),
        JsonLines(tmp_path / "a.jsonl", with_ids=True),
        JsonFile(tmp_path / "a.json", {}, with_ids=True),
    ]
    with Sinks(sinks) as together:
        together.write(FRAME, [])
        together.write(LATER, PAIR)
        together.finish({})
    assert (tmp_path / "a.txt").read_text() == "4,3,1.500,2.250,10.000,20.000\n4,8,1.500,2.250,10.000,20.000\n"
    assert (tmp_path / "a.mot").read_text().splitlines()[1] == "5,8,1.50,2.25,10.00,20.00,0.5000,-1,-1,-1"
    rows = json.loads((tmp_path / "a.json").read_text())["frames"]
    assert rows == [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [(row["index"], row["id"], row["box"]) for row in rows] == [(4, 3, [1.5, 2.25, 10.0, 20.0]), (4, 8, [1.5, 2.25, 10.0, 20.0])]
    table = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert [row["id"] for row in table] == ["3", "8"]
    for row in (*rows, *table):  # the nearest number to the exact time: 1/30000 s is recovered from it
        assert Fraction(float(row["time"])).limit_denominator(30_000) == LATER.timestamp


def test_mot_lines(tmp_path: Path) -> None:
    with Sinks([MotText(tmp_path / "a.txt")]) as sinks:
        fill(sinks)
        sinks.finish({})
    assert (tmp_path / "a.txt").read_text().splitlines()[1] == "2,1,2.50,2.25,10.00,20.00,0.5000,-1,-1,-1"


def test_lines_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with Sinks([StdoutJsonLines()]) as sinks:
        fill(sinks)
        sinks.finish({})
    assert [json.loads(line)["score"] for line in capsys.readouterr().out.splitlines()] == [1.0, 0.5, 0.333333]


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")

    def fail() -> None:
        with Sinks([BoxText(tmp_path / "a.txt"), JsonLines(tmp_path / "a.jsonl")]) as sinks:
            fill(sinks)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert os.listdir(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_name_that_cannot_be_given_leaves_no_temporary_file(tmp_path: Path) -> None:
    def finish() -> None:
        with Sinks([BoxText(tmp_path / name) for name in ("a.txt", "b.txt", "c.txt")]) as sinks:
            fill(sinks)
            (tmp_path / "b.txt").mkdir()
            sinks.finish({})

    with pytest.raises(SinkError, match=r"cannot write .*b\.txt"):
        finish()
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.txt"]


def test_an_old_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with Sinks([BoxText(tmp_path / "a.txt")]) as sinks:
        fill(sinks)
        sinks.finish({})
    assert len((tmp_path / "a.txt").read_text().splitlines()) == 3
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~umask


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.txt").mkdir()
    for place, message in (("file/a.txt", "is not a folder"), ("folder.txt", "is a folder"), ("/proc/a.txt", "/proc")):
        with pytest.raises(SinkError, match=message):
            BoxText(tmp_path / place)


FULL_DISK = """
import sys
from fractions import Fraction
from pathlib import Path
import numpy as np
from engine.errors import SinkError
from engine.video import Frame
from engine.video.draw import draw
from engine.video.mp4 import Mp4
from engine.video.annotations import ClipInfo
from engine.video.coco import CocoVideo
from engine.video.cvat import CvatVideo
from engine.video.label_studio import LabelStudioVideo
from engine.video.sinks import BoxText, Csv, JsonFile, JsonLines, MotText, Record, Sinks
target = Path(sys.argv[1])
random = np.random.default_rng(0)
try:
    with Sinks() as sinks:
        if target.suffix == ".mp4":
            sinks.add(Mp4(target, 320, 240, Fraction(25), Fraction(1, 25), draw))
        else:
            info = ClipInfo("a.mp4", 320, 240, Fraction(25), None, str)
            kinds = {".jsonl": JsonLines, ".json": lambda path: JsonFile(path, {}), ".txt": BoxText, ".mot": MotText, ".csv": Csv}
            kinds |= {".coco": lambda path: CocoVideo(path, info), ".cvat": lambda path: CvatVideo(path, info)}
            kinds |= {".ls": lambda path: LabelStudioVideo(path, info)}
            sinks.add(kinds[target.suffix](target))
        for index in range(4000 if target.suffix != ".mp4" else 60):
            image = random.integers(0, 255, (240, 320, 3), np.uint8) if target.suffix == ".mp4" else np.zeros((2, 2, 3), np.uint8)
            sinks.write(Frame(index, Fraction(index, 25), image), [Record(index, (1, 2, 3, 4), 1.0, "TRACKING", 1.0)])
        sinks.finish({})
except SinkError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.mot", "a.csv", "a.coco", "a.cvat", "a.ls", "a.mp4"])
def test_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    """A limit on the size of files stands for the full disk: writes beyond it fail in the same place."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert done.returncode == 2, done.stderr
    assert f"cannot write {tmp_path / name}" in done.stdout
    assert os.listdir(tmp_path) == []
