"""Runs the tests that need a CUDA device and reports each failure. Where time runs out, those that have run are reported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import seconds_left, write

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "tests").rglob("test_*_gpu.py"))
LEAST = 100  # tests: a file that is not collected would go unnoticed
_WORKERS, _TEST_S, _LAST_S = 12, 90, 25  # _LAST_S: what pytest gets to end its workers and to write its report


def command(report: Path, files: Sequence[str]) -> list[str]:
    found = [sys.executable, "-m", "pytest", "--tb=short", "-p", "no:cacheprovider", f"--junitxml={report}", *files]
    if find_spec("xdist") is not None:  # most of the time goes into compiling Triton's variants
        found += ["-n", str(_workers())]
    if find_spec("pytest_timeout") is not None:
        # A call that hangs in CUDA hears no signal; "thread" ends the worker, of which xdist starts another.
        found += [f"--timeout={_TEST_S}", "--timeout-method", "thread" if find_spec("xdist") is not None else "signal"]
    return found


def _workers() -> int:
    return min(_WORKERS, os.cpu_count() or 1)


def run(report: Path, seconds: float, files: Sequence[str] = FILES) -> int | None:
    """pytest's exit code; None if it was interrupted, which leaves a report of the tests that had ended."""
    environment = {**os.environ, "ESAT_REQUIRE": "cuda,triton", "PYTHONPATH": str(REPOSITORY)}
    # Oracles run on the CPU: workers whose threads share cores would wait for each other at every join.
    environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // _workers()))
    # A shell starts what runs in the background with SIGINT ignored, which children inherit.
    process = subprocess.Popen(
        command(report, files), cwd=REPOSITORY, env=environment, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(_LAST_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return None


def result(code: int | None, report: Path) -> dict[str, Any]:
    """What the report says. A test that was skipped is a failure here: this part exists to run them."""
    cases = list(ElementTree.parse(report).iter("testcase")) if report.is_file() else []
    bad = {
        f"{case.get('classname')}::{case.get('name')}": (found.text or found.get("message") or "")[-800:]
        for case in cases
        for found in (*case.findall("failure"), *case.findall("error"))
    }
    skipped = {f"{case.get('classname')}::{case.get('name')}": found.get("message") for case in cases for found in case.findall("skipped")}
    slowest = sorted(((float(case.get("time", 0)), f"{case.get('classname')}::{case.get('name')}") for case in cases), reverse=True)[:10]
    good = code == 0 and len(cases) > LEAST and not skipped
    return {"ok": good, "interrupted": code is None, "tests": len(cases), "failures": bad, "skipped": skipped, "slowest_s": slowest}


def main(output: Path) -> int:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        code = run(report, max(1.0, seconds_left(600) - _LAST_S - 5))
        found = result(code, report)
    write(output, found)
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
