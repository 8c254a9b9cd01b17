"""The programs in examples/ run as they stand."""

from __future__ import annotations

import importlib.util
import io
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.engine.video.clips import pictures, write_clip
from tests.engine.video.servers import http_server, send_live
from tests.require import require

BOX = "10,20,24,24"


def run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> None:
    program = REPOSITORY / "examples" / name
    monkeypatch.setattr(sys, "argv", [str(program), *map(str, arguments)])
    runpy.run_path(str(program), run_name="__main__")


def test_track_video(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = write_clip(tmp_path / "a.mp4", pictures(6))
    run(monkeypatch, "track_video.py", clip, BOX, tmp_path / "boxes.txt", "--model", tiny)
    boxes = np.loadtxt(tmp_path / "boxes.txt", delimiter=",")
    assert boxes.shape == (6, 4)
    assert list(boxes[0]) == [10, 20, 24, 24]


def test_camera_loop(tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_clip(io.BytesIO(), pictures(30), container="mpegts", options={"bf": "0"}).getvalue()
    with http_server(lambda request, _: send_live(request, data)) as address:
        run(monkeypatch, "camera_loop.py", f"{address}/camera", BOX, "--model", tiny, "--frames", 2)
    printed = capsys.readouterr().out
    assert "2 frames tracked" in printed
    assert "box" in printed.splitlines()[0]


def test_draw_with_opencv(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = write_clip(tmp_path / "a.mp4", pictures(6))
    run(monkeypatch, "draw_with_opencv.py", clip, BOX, tmp_path / "drawn.avi", "--model", tiny)
    capture = cv2.VideoCapture(str(tmp_path / "drawn.avi"))
    assert sum(1 for _ in iter(lambda: capture.read()[0], False)) == 5


def test_batch_folder(tiny: Path, tmp_path: Path) -> None:
    require("ray", None if importlib.util.find_spec("ray") else "package ray is not installed")
    for name in ("a.mp4", "b.mp4"):
        write_clip(tmp_path / name, pictures(5))
    (tmp_path / "c.mp4").write_text("no video")
    (tmp_path / "targets.csv").write_text("".join(f"{name}.mp4,{BOX}\n" for name in "abc"))
    program = REPOSITORY / "examples" / "batch_folder.py"
    command = [sys.executable, program, tmp_path / "targets.csv", tmp_path / "boxes", "--model", tiny, "--workers", 1]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "c.mp4: cannot open" in done.stdout
    assert sorted(path.name for path in (tmp_path / "boxes").iterdir()) == ["a.txt", "b.txt"]
    assert np.loadtxt(tmp_path / "boxes" / "a.txt", delimiter=",").shape == (5, 4)


def test_gstreamer_pipe(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A width whose rows are padded, so that a wrong stride would shear the picture."""
    require("gstreamer", None if shutil.which("gst-launch-1.0") else "no gst-launch-1.0 on this machine")
    run(monkeypatch, "gstreamer_pipe.py", "videotestsrc num-buffers=4 pattern=gradient", "97x64", BOX, "--model", tiny)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["1", "2", "3"]
    frames = runpy.run_path(str(REPOSITORY / "examples" / "gstreamer_pipe.py"))["frames"]
    (frame,) = frames("videotestsrc num-buffers=1 pattern=gradient", 97, 64)
    assert frame.shape == (64, 97, 3)
    assert (frame == frame[:, :1]).all()  # from top to bottom, alike along each row
    assert frame[-1, 0, 0] != frame[0, 0, 0]
    with pytest.raises(SystemExit, match="failed with exit code"):
        list(frames("no_such_element", 97, 64))


def test_supervision_traces(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    require("supervision", None if importlib.util.find_spec("supervision") else "package supervision is not installed")
    clip = write_clip(tmp_path / "a.mp4", pictures(6, 160, 120))
    run(monkeypatch, "supervision_traces.py", clip, tmp_path / "drawn.mp4", BOX, "60,40,30,30", "--model", tiny)
    assert "2 targets drawn" in capsys.readouterr().out
    capture = cv2.VideoCapture(str(tmp_path / "drawn.mp4"))
    assert sum(1 for _ in iter(lambda: capture.read()[0], False)) == 5
