"""The parts of the GPU command that start other programs: the build, the tests, the sanitizer, several commands at once."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from benchmarks.gpu import build, sanitize
from benchmarks.gpu import tests as gpu_tests
from benchmarks.gpu.children import run_together


@pytest.mark.parametrize(
    ("code", "text", "verdict"),
    [
        (0, "========= ERROR SUMMARY: 0 errors", "clean"),
        (0, "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", "clean"),
        (9, "========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)", "errors"),
        (9, "========= ERROR SUMMARY: 10 errors", "errors"),
        (1, "Traceback (most recent call last)", "errors"),
        (1, "========= Error: Device not supported. Please refer to the documentation", "refused by this machine"),
    ],
)
def test_what_the_sanitizer_says(code, text, verdict):
    assert sanitize.verdict(code, text) == verdict


@pytest.mark.parametrize(
    ("missing", "tool"), [({"cuda": "not built", "triton": None}, "/bin/true"), ({"cuda": None, "triton": None}, None)]
)
def test_the_sanitizer_says_what_it_could_not_run(missing, tool):
    found = sanitize.run(tool, missing, 60)
    assert list(found) == [f"{backend} {name}" for backend in sanitize.BACKENDS for name in sanitize.TOOLS]
    if tool is None:
        assert all(entry["why"] == "compute-sanitizer is not installed" for entry in found.values())
    else:  # a tool that says nothing has found nothing out
        assert found["cuda memcheck"] == {"verdict": "not run", "why": "not built"}
        assert found["frame racecheck"]["verdict"] == "errors"


def test_commands_run_at_once_and_none_is_left():
    python = [sys.executable, "-c"]
    meet = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch()\nwhile not pathlib.Path(sys.argv[2]).exists(): time.sleep(0.01)"
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder, name)) for name in "ab"]
        ended = run_together(
            {
                "a": [*python, meet, *paths],
                "b": [*python, meet, *reversed(paths)],
                "fails": [*python, "print('why'); raise SystemExit(3)"],
                "hangs": [*python, "import time; print('here', flush=True); time.sleep(100)"],
            },
            5,
        )
    assert {name: one.code for name, one in ended.items()} == {"a": 0, "b": 0, "fails": 3, "hangs": None}
    assert (ended["fails"].output, ended["hangs"].output) == ("why\n", "here\n")


@pytest.fixture
def _sigint_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_sigint_ignored")  # as it is behind `nohup make gpu &`
def test_tests_that_ended_before_time_ran_out_are_reported(tmp_path):
    path = tmp_path / "test_some.py"
    path.write_text("import time\ndef test_good(): pass\ndef test_bad(): assert 1 == 2\ndef test_hangs(): time.sleep(100)\n")
    report = tmp_path / "report.xml"
    assert gpu_tests.run(report, 12, [str(path)]) is None
    found = gpu_tests.result(None, report)
    assert not found["ok"]
    assert found["interrupted"]
    assert found["tests"] >= 2
    assert "assert 1 == 2" in next(iter(found["failures"].values()))


def test_the_build_finds_its_tools_beside_python(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "/nowhere")
    path = build.environment()["PATH"]
    assert path.split(os.pathsep) == ["/nowhere", str(Path(sys.executable).parent), "/usr/local/cuda/bin"]
    configure, library, *_ = build.steps(tmp_path, path)
    assert ("Ninja" in configure) == (shutil.which("ninja", path=path) is not None)
    assert library[-1] == "_esat_native"
