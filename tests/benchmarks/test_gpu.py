"""The GPU command where there is no GPU: what it prints, and how its parts end, are recorded and are taken up again."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys

import pytest

from benchmarks.gpu import machine, sanitize
from benchmarks.gpu.parts import PARTS, PEERS, Part
from tests.conftest import REPOSITORY

command = importlib.import_module("benchmarks.gpu.__main__")


def test_without_a_gpu_every_part_says_what_it_would_do():
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "nothing is run" in done.stdout
    for part in PARTS:
        assert f"{part.name}: {part.purpose}" in done.stdout
        assert f"-m benchmarks.gpu.{part.module}" in done.stdout


def test_all_parts_fit_into_ten_minutes_and_exist():
    assert sum(part.limit_s for part in PARTS) < 600
    assert PEERS.limit_s < 600
    for part in (*PARTS, PEERS):
        assert (REPOSITORY / "benchmarks" / "gpu" / f"{part.module}.py").is_file()


def test_an_unknown_part_is_named(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu", "--parts", "build,polish"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert "unknown parts polish: expected some of build, tests" in capsys.readouterr().err


@dataclasses.dataclass(frozen=True)
class Fake(Part):
    """A part that runs a line of Python with OUTPUT as the path of its file."""

    code: str = ""

    def command(self, output):
        return [sys.executable, "-c", f"OUTPUT = {str(output)!r}\n{self.code}"]


WRITES = "open(OUTPUT, 'w').write('{\"ok\": true, \"value\": 7}')"


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Calls the command with these parts, as if there were a GPU; gives the exit code and what the files say."""
    monkeypatch.setattr(machine, "no_gpu", lambda: None)
    monkeypatch.setattr(machine, "facts", lambda _: {"device": "fake", "commit": "abc"})

    def call(parts, *arguments):
        monkeypatch.setattr(command, "PARTS", parts)
        monkeypatch.setattr(sys, "argv", ["gpu", "--output", str(tmp_path), *arguments])
        code = command.main()
        return code, {path.stem.removeprefix("gpu_"): json.loads(path.read_text()) for path in tmp_path.iterdir()}

    return call


def test_a_part_that_crashes_or_hangs_stops_no_other(run):
    parts = (
        Fake("crashes", "", "", 60, code="import os; os.abort()"),
        Fake("hangs", "", "", 1, code="import time; time.sleep(100)"),
        Fake("lies", "", "", 60, code=f"{WRITES}; raise SystemExit(3)"),
        Fake("works", "", "", 60, code=WRITES),
    )
    code, found = run(parts)
    assert code == 1
    assert {name: part["ok"] for name, part in found.items()} == {"crashes": False, "hangs": False, "lies": False, "works": True}
    assert found["hangs"]["ended"] == "stopped after 1 s"
    assert found["works"]["value"] == 7
    assert found["works"]["device"] == "fake"


def test_a_second_call_goes_on_where_the_first_stopped(run, capsys):
    works, breaks = Fake("works", "", "", 60, code=WRITES), Fake("breaks", "", "", 60, code="raise SystemExit(1)")
    assert run((works, breaks))[0] == 1
    capsys.readouterr()
    mended = Fake("breaks", "", "", 60, code=WRITES)
    assert run((works, mended))[0] == 0
    assert "works: finished by an earlier call" in capsys.readouterr().out
    run((works, mended), "--again")
    assert "finished by an earlier call" not in capsys.readouterr().out


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
    assert sanitize._verdict(code, text) == verdict


def test_the_commit_tells_local_changes(tmp_path):
    assert machine.commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=A", "-c", "user.email=a@example.org"]
    (tmp_path / "a").write_text("1")
    for arguments in (["init", "-q"], ["add", "a"], ["commit", "-qm", "a"]):
        subprocess.run([*git, *arguments], check=True)
    clean = machine.commit(tmp_path)
    assert clean is not None
    assert len(clean) == 40
    (tmp_path / "a").write_text("2")
    assert machine.commit(tmp_path) == f"{clean}-dirty"
