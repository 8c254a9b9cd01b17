"""The parts of the GPU command that start other programs: the build, the tests, the sanitizer, several commands at once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from benchmarks.gpu import build, counters, sanitize
from benchmarks.gpu import tests as gpu_tests
from benchmarks.gpu.children import run_together
from tests.conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "csrc"))
import build_cuda


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
    found = {name: entry for kind in sanitize.TOOLS for name, entry in sanitize.run(tool, kind, missing, 60).items()}
    assert sorted(found) == sorted(f"{backend} {name}" for backend in sanitize.BACKENDS for name in sanitize.TOOLS)
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
    assert gpu_tests.run(report, 40, [str(path)]) is None  # long enough for a busy machine to start the first two
    found = gpu_tests.result(None, report)
    assert not found["ok"]
    assert found["interrupted"]
    assert found["tests"] >= 2
    assert "assert 1 == 2" in next(iter(found["failures"].values()))


def test_racecheck_decides_on_the_sm_80_kernel_alone():
    clean, bad = {"verdict": "clean"}, {"verdict": "errors"}
    assert sanitize.good({"cuda racecheck": clean, "hopper racecheck": bad, "triton racecheck": bad, "frame racecheck": bad})
    assert not sanitize.good({"cuda racecheck": bad, "triton racecheck": clean})
    assert not sanitize.good({"cuda memcheck": clean, "triton memcheck": bad})
    assert not sanitize.good({"cuda memcheck": clean, "hopper memcheck": bad})
    assert not sanitize.good({"cuda racecheck": {"verdict": "not finished in 20 s"}})


@pytest.mark.parametrize(
    ("code", "text", "reported", "verdict"),
    [
        (0, "==PROF== Disconnected", True, "counted"),
        (0, "==WARNING== No kernels were profiled.", False, "failed"),
        (1, "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission", False, "refused by this machine"),
        (None, "==PROF== Profiling", False, "stopped"),
        (1, "Traceback (most recent call last)", True, "failed"),
    ],
)
def test_what_the_profiler_says(code, text, reported, verdict):
    assert counters.verdict(code, text, reported) == verdict


def test_a_library_of_these_sources_is_loaded_as_it_is(tmp_path, capfd):
    """And another file of that name is a failure that says why."""
    library = tmp_path / "libesat_cuda.so"
    source = tmp_path / "library.c"
    fingerprint = build_cuda.fingerprint()
    source.write_text(f'const char* esat_cuda_about(void) {{ return "nvcc 0.0, none, sources {fingerprint}"; }}')
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    output = tmp_path / "gpu_library.json"
    assert build.main(output, library) == 0
    assert json.loads(output.read_text()) == {"ok": True, "about": f"nvcc 0.0, none, sources {fingerprint}"}
    broken = tmp_path / "broken.so"  # another name: what was loaded under this one stays
    broken.write_text(f"no library, but sources {fingerprint}")
    assert build.main(output, broken) == 1
    assert not json.loads(output.read_text())["ok"]
    assert "does not load" in capfd.readouterr().out
