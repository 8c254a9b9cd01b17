"""Damaged files of every kind end in a result or an EsatError: no crash, no code of theirs run, nothing left behind.

ESAT_FUZZ_ROUNDS sets how many inputs each reader gets; `python -m tests.fuzz` runs one reader for longer and repeats a seed.
"""

import json
import os
import random
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.fuzz.mutate import mutate_bytes, mutate_value
from tests.fuzz.targets import TARGETS

ROUNDS = int(os.environ.get("ESAT_FUZZ_ROUNDS", "60"))


@pytest.fixture(scope="module")
def report():
    """What all targets reported."""
    command = [sys.executable, "-m", "tests.fuzz", "--rounds", str(ROUNDS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_surprises(report, target):
    assert {"target": target, "rounds": ROUNDS} in report
    assert [row for row in report if row["target"] == target and "found" in row] == []


def test_surprises_are_found(tmp_path):
    """The harness itself: an unexpected exception, code that runs, a file left behind and a crash are all reported."""
    program = f"""
import os, sys
from tests.fuzz import __main__ as fuzz, targets
def leave(corpus, rng, folder): (folder / "half").write_text("")
def wrong(corpus, rng, folder): raise KeyError("x")
def code(corpus, rng, folder): os.system("true")
def crash(corpus, rng, folder): os.abort()
targets.TARGETS.clear()
targets.TARGETS.update(leave=leave, wrong=wrong, code=code, crash=crash)
sys.argv = ["fuzz", "--rounds", "1"]
os.chdir({str(REPOSITORY)!r})
fuzz.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY)
    found = {row["target"]: row["found"] for row in map(json.loads, done.stdout.splitlines()) if "found" in row}
    assert found["leave"] == "left behind: ['half']"
    assert found["wrong"].startswith("KeyError: 'x'")
    assert found["code"].startswith("AssertionError: input reached os.system")
    assert found["crash"] == "the process died (-6)"


def test_damage_is_repeatable_and_damages():
    data = bytes(range(256)) * 8
    assert [mutate_bytes(data, random.Random(seed)) for seed in range(20)] == [
        mutate_bytes(data, random.Random(seed)) for seed in range(20)
    ]
    assert sum(mutate_bytes(data, random.Random(seed)) != data for seed in range(100)) > 90
    values = {"a": [1, {"b": 2}], "c": "d"}
    assert sum(mutate_value(values, random.Random(seed)) != values for seed in range(100)) > 80
    assert values == {"a": [1, {"b": 2}], "c": "d"}
