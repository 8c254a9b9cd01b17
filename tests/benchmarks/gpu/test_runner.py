"""How the parts of the GPU command run, end, are recorded and are taken up again."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from benchmarks.gpu import cache, children, runner
from benchmarks.gpu.parts import MINUTES, PARTS, STAGES, Part
from benchmarks.gpu.runner import run_parts
from tests.conftest import REPOSITORY


@dataclasses.dataclass(frozen=True)
class Fake(Part):
    """A part that runs a line of Python with OUTPUT as the path of its file."""

    code: str = ""

    def command(self, output):
        return [sys.executable, "-c", f"OUTPUT = {str(output)!r}\n{self.code}"]


WRITES = "open(OUTPUT, 'w').write('{\"ok\": true, \"value\": 7}')"
FACTS = {"device": "fake", "commit": None, "sources": "abc"}


@pytest.fixture
def run(tmp_path):
    """Runs these parts; gives the exit code and what the files say."""

    def call(parts, seconds=60.0, **options):
        code = run_parts(parts, tmp_path, FACTS, seconds, **{"grace_s": 0.5, **options})
        return code, {path.stem.removeprefix("gpu_"): json.loads(path.read_text()) for path in tmp_path.glob("*.json")}

    return call


def test_a_part_that_crashes_or_hangs_stops_no_other(run):
    parts = (
        Fake("crashes", "", "", 60, code="import os; os.abort()"),
        Fake("hangs", "", "", 0.4, code="import time; time.sleep(100)"),
        Fake("lies", "", "", 60, code=f"{WRITES}; raise SystemExit(3)"),
        Fake("works", "", "", 60, code=WRITES),
    )
    code, found = run(parts)
    assert code == 1
    assert {name: part["ok"] for name, part in found.items()} == {"crashes": False, "hangs": False, "lies": False, "works": True}
    assert found["hangs"]["ended"] == "stopped after 1 s"
    assert found["works"]["value"] == 7
    assert found["works"]["device"] == "fake"


def test_a_part_that_cannot_be_killed_stops_no_other(run, monkeypatch):
    """As the driver may hold a process until a kernel that hangs is taken off the device."""
    held = []
    kill = children.os.killpg
    monkeypatch.setattr(children.os, "killpg", lambda pid, number: held.append(pid))
    monkeypatch.setattr(children, "PATIENCE_S", 0.2)
    try:
        code, found = run((Fake("hangs", "", "", 0.4, code="import time; time.sleep(100)"), Fake("works", "", "", 60, code=WRITES)))
    finally:
        for pid in set(held):
            with contextlib.suppress(ProcessLookupError):
                kill(pid, signal.SIGKILL)
    assert code == 1
    assert re.fullmatch(r"stopped after \d s, did not end when it was killed", found["hangs"]["ended"])
    assert found["works"]["ok"]


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:  # it has ended meanwhile
        return b""


def test_a_part_that_is_stopped_while_it_writes_or_has_children_does_no_harm(run):
    """The file is half written, and a child in a session of its own holds on."""
    child = "import time; time.sleep(60.125)"
    parts = (
        Fake("writes", "", "", 1, code="open(OUTPUT, 'w').write('{\"ok\": tr'); import time; time.sleep(100)"),
        Fake(
            "starts",
            "",
            "",
            4,
            code=f"from benchmarks.gpu.children import run_together; run_together({{'a': [{sys.executable!r}, '-c', {child!r}]}}, 100)",
        ),
    )
    code, found = run(parts)
    assert code == 1
    assert not any(part["ok"] for part in found.values())
    assert not any(child.encode() in _command_line(path) for path in Path("/proc").glob("[0-9]*"))


def test_what_a_part_prints_is_kept_and_its_end_is_shown(run, tmp_path, capsys):
    run((Fake("talks", "", "", 60, code=f"{WRITES}; print(*range(1000), sep='\\n')"),))
    shown = capsys.readouterr().out.splitlines()
    assert "999" in shown
    assert "500" not in shown
    assert (tmp_path / "gpu_talks.log").read_text().splitlines() == [str(number) for number in range(1000)]


def test_parts_know_their_time_and_what_does_not_fit_is_left_to_the_next_call(run, capsys):
    tells = "from benchmarks.gpu.parts import seconds_left; open(OUTPUT, 'w').write('{\"ok\": true, \"left\": %f}' % seconds_left(999))"
    parts = (Fake("first", "", "", 10, code=tells), Fake("second", "", "", 2, code=f"{WRITES}; import time; time.sleep(3)"))
    reserved = children.PATIENCE_S + runner.machine.CLOCKS_S
    code, found = run(parts, 12 + reserved, least_s=2.0)
    assert code == 0
    assert 0 < found["first"]["left"] < 12
    parts = (*parts, Fake("third", "", "", 50, code=WRITES), Fake("fourth", "", "", 1, code=WRITES))
    code, found = run(parts, 14 + reserved, least_s=1.0, again=True)
    assert code == 1
    assert "third" not in found
    assert found["fourth"]["ok"]  # which fits
    assert "no time was left for third: the same command goes on there" in capsys.readouterr().out
    code, found = run(parts)
    assert code == 0
    assert found["third"]["ok"]


def test_a_part_whose_work_is_gone_runs_again(run, tmp_path, capsys):
    left = tmp_path / "library.so"
    part = Fake("library", "", "", 60, leaves=left, code=f"{WRITES}; open({str(left)!r}, 'w')")
    run((part,))
    run((part,))
    assert "library: finished by an earlier call" in capsys.readouterr().out
    left.unlink()
    run((part,))
    assert "finished by an earlier call" not in capsys.readouterr().out
    assert left.exists()


def test_results_of_another_device_or_other_sources_or_versions_do_not_count(tmp_path, capsys):
    part = Fake("works", "", "", 60, code=WRITES)
    others = [{}, {"device": "another"}, {"sources": "def"}, {"torch": "2"}, {"triton": "3"}]  # one more each time
    for facts in (FACTS | {name: value for other in others[:count] for name, value in other.items()} for count in range(1, 6)):
        assert run_parts((part,), tmp_path, facts, 60.0, grace_s=0.5) == 0
    assert "finished by an earlier call" not in capsys.readouterr().out


def test_a_second_call_goes_on_where_the_first_stopped(run, capsys):
    works, breaks = Fake("works", "", "", 60, code=WRITES), Fake("breaks", "", "", 60, code="raise SystemExit(1)")
    assert run((works, breaks))[0] == 1
    capsys.readouterr()
    mended = Fake("breaks", "", "", 60, code=WRITES)
    assert run((works, mended))[0] == 0
    assert "works: finished by an earlier call" in capsys.readouterr().out
    run((works, mended), again=True)
    assert "finished by an earlier call" not in capsys.readouterr().out


def test_one_file_holds_all_that_the_next_call_needs_after_every_part(run, tmp_path, monkeypatch):
    """Results, measured tiles, the library, compiled kernels: unpacked at another place, they are taken up there."""
    here, there = tmp_path / "here", tmp_path / "there"
    kernel = here / "build/gpu/triton/HASH"
    for name in (kernel, here / "esat_kernels/tuned", here / "results", there):
        name.mkdir(parents=True)
    monkeypatch.setattr(runner, "REPOSITORY", here)
    monkeypatch.setattr(runner, "LIBRARY", here / "esat_kernels/libesat_cuda.so")
    monkeypatch.setattr(runner, "TRITON_CACHE", here / "build/gpu/triton")
    (here / "esat_kernels/libesat_cuda.so").touch()
    (here / "esat_kernels/tuned/device.json").touch()
    group = {"child_paths": {name: str(kernel / name) for name in ("k.cubin", "k.json", "k.ttir")}}
    for name, text in (("k.cubin", "code"), ("k.json", "{}"), ("k.ttir", "long"), ("__grp__k.json", json.dumps(group))):
        (kernel / name).write_text(text)
    archive = tmp_path / "gpu.tar.gz"
    there_is = f"import os; assert os.path.exists({str(archive)!r})"
    parts = [Fake("first", "", "", 60, code=WRITES), Fake("second", "", "", 60, code=f"{there_is}; {WRITES}")]
    assert run_parts(parts, here / "results", FACTS, 60.0, archive=archive, grace_s=0.5) == 0
    with tarfile.open(archive) as packed:
        packed.extractall(there, filter="data")
    found = {str(path.relative_to(there)) for path in there.rglob("*") if path.is_file()}
    assert found == {
        *(f"results/gpu_{name}.{kind}" for name in ("first", "second") for kind in ("json", "log")),
        *("esat_kernels/libesat_cuda.so", "esat_kernels/tuned/device.json"),
        *(f"build/gpu/triton/HASH/{name}" for name in ("k.cubin", "k.json", "__grp__k.json")),
    }
    cache.settle(there / "build/gpu/triton")
    settled = json.loads((there / "build/gpu/triton/HASH/__grp__k.json").read_text())["child_paths"]
    assert settled == {name: str(there / "build/gpu/triton/HASH" / name) for name in ("k.cubin", "k.json")}


def test_an_archive_that_would_be_too_large_is_two(run, tmp_path, monkeypatch):
    """Results come back whatever was compiled."""
    kernel = tmp_path / "triton" / "k.cubin"
    kernel.parent.mkdir()
    kernel.write_bytes(random.Random(1).randbytes(20000))
    monkeypatch.setattr(runner, "TRITON_CACHE", kernel.parent)
    monkeypatch.setattr(runner, "LIBRARY", tmp_path / "none.so")
    monkeypatch.setattr(runner, "LARGEST", 10000)
    run((Fake("works", "", "", 60, code=WRITES),), archive=tmp_path / "out/gpu.tar.gz")
    names = {}
    for path in (tmp_path / "out").iterdir():
        with tarfile.open(path) as archive:
            names[path.name] = [Path(name).name for name in archive.getnames()]
    assert "k.cubin" not in names["gpu.tar.gz"]
    assert "gpu_works.json" in names["gpu.tar.gz"]
    assert names["kernels-gpu.tar.gz"] == ["k.cubin"]


def test_kernels_that_are_packed_apart_are_packed_again_only_when_there_are_others(run, tmp_path, monkeypatch):
    kernels, packed = tmp_path / "triton", tmp_path / "out" / "kernels-gpu.tar.gz"
    kernels.mkdir()
    monkeypatch.setattr(runner, "TRITON_CACHE", kernels)
    monkeypatch.setattr(runner, "LARGEST", 100)
    archive = runner._archive
    written = []
    monkeypatch.setattr(runner, "_archive", lambda paths, target: written.append(target.name) or archive(paths, target))
    compiles = f"open({str(kernels)!r} + '/' + OUTPUT[-6] + '.cubin', 'wb').write(b'code'); {WRITES}"
    parts = [Fake(name, "", "", 60, code=compiles if name in "ac" else WRITES) for name in "abc"]
    assert run(parts, archive=tmp_path / "out" / "gpu.tar.gz")[0] == 0
    assert written == ["gpu.tar.gz", "kernels-gpu.tar.gz", "gpu.tar.gz", "gpu.tar.gz", "kernels-gpu.tar.gz", "gpu.tar.gz"]
    with tarfile.open(packed) as found:
        assert [Path(name).name for name in found.getnames()] == ["a.cubin", "c.cubin"]


def test_pictures_and_reports_are_packed_too(run, tmp_path):
    packed = tmp_path.parent / f"{tmp_path.name}.tar"
    run(
        (Fake("works", "", "", 60, code=WRITES), Fake("draws", "", "", 60, code=f"{WRITES}; open(OUTPUT[:-4] + 'png', 'w')")),
        archive=packed,
    )
    with tarfile.open(packed) as archive:
        assert sorted(Path(name).name for name in archive.getnames() if name.startswith("results/")) == [
            *("gpu_draws.json", "gpu_draws.log", "gpu_draws.png", "gpu_works.json", "gpu_works.log")
        ]


class Simulated:
    """The parts of the command on a clock of its own: each takes its planned time times a factor, `others` excepted; the archive takes a second."""

    def __init__(self, monkeypatch, tmp_path, factor, others=None):
        self.now, self.ended, self.stopped, self.archives = 1000.0, [], [], []
        self._factor, self._others, self._folder = factor, others or {}, tmp_path
        self.held = set()  # parts that do not end when they are killed, on a device that does not answer then
        monkeypatch.setattr(runner.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(runner, "_run", self._run)
        monkeypatch.setattr(runner, "pack", self._pack)
        monkeypatch.setattr(runner, "TRITON_CACHE", tmp_path / "triton")

    def _run(self, part, folder, facts, seconds, remaining, again, grace_s):
        needed = self._others.get(part.name, part.planned_s * self._factor)
        took = min(needed, seconds + grace_s + (children.PATIENCE_S + runner.machine.CLOCKS_S) * (part.name in self.held))
        self.now += took
        good = needed <= seconds
        (self.ended if good else self.stopped).append(part.name)
        found = {"ok": good, "seconds": took, "ended": "exit code 0" if good else f"stopped after {seconds:.0f} s", **facts}
        (folder / f"gpu_{part.name}.json").write_text(json.dumps(found))
        return found

    def _pack(self, folder, archive, apart):
        self.now += 1.0
        self.archives.append({path.name for path in folder.glob("gpu_*.json")})

    def call(self):
        """One call of the command: how long it took."""
        before = self.now
        run_parts(PARTS, self._folder, FACTS, 60 * MINUTES, archive=self._folder / "gpu.tar.gz")
        return self.now - before


FIRST = [part.name for name in "ab" for part in STAGES[name]]


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.4, 2.0, 2.4])
def test_guesses_that_are_wrong_cost_nothing_of_the_first_stages_and_no_more_than_the_time(monkeypatch, tmp_path, factor):
    """What is left, or was stopped, is done by the calls behind it."""
    machine = Simulated(monkeypatch, tmp_path, factor)
    calls = 0
    while len(machine.ended) < len(PARTS):
        calls += 1
        assert machine.call() <= 60 * MINUTES
        if calls == 1:
            assert machine.ended[: len(FIRST)] == FIRST
            assert len(machine.stopped) <= 1  # the last one that was started
        assert calls <= 3
    assert calls == 1 or factor > 0.9
    ran = [name for name in (*machine.ended, *machine.stopped)]
    assert len(machine.archives) == len(ran)  # one after each, with all that there was by then
    assert all(len(one) <= len(next_one) for one, next_one in zip(machine.archives, machine.archives[1:], strict=False))


@pytest.mark.parametrize("name", ["hopper", "counters", "tests"])
def test_a_part_that_hangs_leaves_time_behind_it(monkeypatch, tmp_path, name):
    machine = Simulated(monkeypatch, tmp_path, 0.8, {name: 1e9})
    assert machine.call() <= 60 * MINUTES
    assert machine.stopped == [name]
    assert machine.ended == [part.name for part in PARTS if part.name not in machine.stopped]


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.1])
def test_the_last_archive_is_written_in_time_though_nothing_ends_that_is_killed(monkeypatch, tmp_path, factor):
    """Whichever part is the last one that is started: each may be stopped by the end of the call's time."""
    for name in (part.name for part in PARTS):
        machine = Simulated(monkeypatch, tmp_path / name, factor, {name: 1e9})
        (tmp_path / name).mkdir()
        machine.held = {part.name for part in PARTS}
        assert machine.call() <= 60 * MINUTES
        assert machine.stopped
        assert len(machine.archives) == len(machine.ended) + len(machine.stopped)


def test_a_device_that_does_not_answer_is_not_waited_for(monkeypatch, tmp_path):
    hangs = tmp_path / "nvidia-smi"
    hangs.write_text("#!/bin/sh\nexec sleep 60\n")
    hangs.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(runner.machine, "CLOCKS_S", 0.3)
    started = time.monotonic()
    assert runner.machine.clocks() is None
    assert time.monotonic() - started < 15


def test_time_that_was_saved_is_for_whoever_needs_it(monkeypatch, tmp_path):
    machine = Simulated(monkeypatch, tmp_path, 0.8, {"dependent": 45.0})  # the last one, more than twice its plan
    machine.call()
    assert machine.ended == [part.name for part in PARTS]


def test_what_was_planned_and_what_it_took_is_printed(run, capsys):
    run((Fake("quick", "", "", 20, code=WRITES),))
    shown = capsys.readouterr().out
    assert "== quick:  (planned 20 s, at most 50 s of 5" in shown
    assert re.search(r"quick +planned +20 s, took +\d+\.\d s +ok", shown)
    assert re.search(r"sum +planned +20 s, took +\d+\.\d s", shown)


def goes_through(parts, monkeypatch, run, capsys, **options):
    """The parts that a call runs."""
    monkeypatch.setattr(runner, "PARTS", parts)
    run(parts, **options)
    return re.findall(r"^== (\w+): .*at most", capsys.readouterr().out, re.MULTILINE)


GOES_ON = "import pathlib; from benchmarks.gpu.parts import earlier, read, write; path = pathlib.Path(OUTPUT)\n"


def test_a_part_runs_again_behind_the_one_that_it_follows(run, capsys, monkeypatch, tmp_path):
    """Also where that has only gone on with what was missing; from there on, unless everything is done again. Even in a later call."""
    first = Fake(
        "first", "", "", 60, code=f"{GOES_ON}again = bool(earlier(path)); write(path, {{'ok': again}}); raise SystemExit(not again)"
    )
    counts = f"{GOES_ON}write(path, {{'ok': True, 'count': earlier(path).get('count', 0) + 1}})"
    second, other = Fake("second", "", "", 60, follows=("first",), code=counts), Fake("other", "", "", 60, code=counts)
    third = Fake("third", "", "", 60, follows=("other", "second"), code=counts)
    parts = (first, second, other, third)
    assert goes_through(parts, monkeypatch, run, capsys) == ["first", "second", "other", "third"]
    assert goes_through(parts, monkeypatch, run, capsys) == ["first", "second", "third"]
    assert goes_through(parts, monkeypatch, run, capsys) == []
    assert json.loads((tmp_path / "gpu_second.json").read_text())["count"] == 2
    run((first,), again=True)  # alone, or as where no time was left for the other
    assert not (tmp_path / "gpu_second.json").exists()
    capsys.readouterr()
    assert goes_through(parts, monkeypatch, run, capsys) == ["first", "second", "third"]
    assert json.loads((tmp_path / "gpu_second.json").read_text())["count"] == 1


def test_where_no_time_is_left_for_a_part_what_follows_it_waits_too(run, capsys, monkeypatch):
    """It would take time, and run again behind it."""
    long, short = Fake("long", "", "", 100, code=WRITES), Fake("short", "", "", 2, follows=("long",), code=WRITES)
    other = Fake("other", "", "", 2, code=WRITES)
    reserved = children.PATIENCE_S + runner.machine.CLOCKS_S
    code, found = run((long, short, other), 20 + reserved, least_s=1.0)
    assert (code, set(found)) == (1, {"other"})
    assert "no time was left for long, short" in capsys.readouterr().out
    assert goes_through((long, short, other), monkeypatch, run, capsys) == ["long", "short"]


def test_a_part_goes_on_from_what_an_earlier_call_of_it_wrote(run, tmp_path):
    """Unless it ran on other sources, or everything is to be done again. One that writes nothing loses nothing of it."""
    first = "import json, sys; open(OUTPUT, 'w').write(json.dumps({'ok': False, 'rows': [1]})); sys.exit(1)"
    goes_on = (
        "import json, pathlib; from benchmarks.gpu.parts import earlier; rows = earlier(pathlib.Path(OUTPUT)).get('rows', []) + [2]\n"
        "open(OUTPUT, 'w').write(json.dumps({'ok': rows == [1, 2], 'rows': rows}))"
    )
    run((Fake("part", "", "", 60, code=first),))
    code, found = run((Fake("part", "", "", 60, code="import os; os.abort()"),))
    assert (code, found["part"]["ok"], found["part"]["rows"]) == (1, False, [1])
    (tmp_path / "gpu_part.json").replace(tmp_path / "gpu_part.earlier")  # a call that is stopped while the part runs leaves it there
    code, found = run((Fake("part", "", "", 60, code=goes_on),))
    assert (code, found["part"]["rows"]) == (0, [1, 2])
    assert not list(tmp_path.glob("*.earlier"))
    run((Fake("part", "", "", 60, code=first),), again=True)
    assert run((Fake("part", "", "", 60, code=goes_on),), again=True)[1]["part"]["rows"] == [2]
    run((Fake("part", "", "", 60, code=first),), again=True)
    run_parts((Fake("part", "", "", 60, code=goes_on),), tmp_path, FACTS | {"sources": "def"}, 60.0, grace_s=0.5)
    assert json.loads((tmp_path / "gpu_part.json").read_text())["rows"] == [2]


def test_an_archive_that_cannot_be_written_ends_no_call(run, tmp_path, capsys):
    (tmp_path / "file").touch()
    code, found = run(
        (Fake("works", "", "", 60, code=WRITES), Fake("too", "", "", 60, code=WRITES)), archive=tmp_path / "file" / "gpu.tar.gz"
    )
    assert code == 0
    assert found["too"]["ok"]
    assert "gpu.tar.gz is not written anew" in capsys.readouterr().out


def test_a_call_that_is_stopped_stops_its_part(tmp_path):
    """The part writes the number of its process, then hangs."""
    number = tmp_path / "pid"
    part = f"import os, pathlib, time; pathlib.Path({str(number)!r}).write_text(f'{{os.getpid()}}.'); time.sleep(100)"
    code = f"""
import dataclasses, pathlib, sys
from benchmarks.gpu import runner
from benchmarks.gpu.parts import Part
class Hangs(Part):
    def command(self, output): return [sys.executable, "-c", {part!r}]
runner.run_parts([Hangs("hangs", "", "", 60)], pathlib.Path({str(tmp_path)!r}), dict(device="a", sources="b"), 60.0)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.DEVNULL) as call:
        end = time.monotonic() + 60
        while not (number.is_file() and number.read_text().endswith(".")) and time.monotonic() < end:
            time.sleep(0.05)
        call.terminate()
        call.wait(30)
    assert not Path("/proc", number.read_text().rstrip(".")).exists()
