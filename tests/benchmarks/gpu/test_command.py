"""The GPU command where there is no GPU: what it prints; and that everything it needs is there."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks.gpu import machine
from benchmarks.gpu import tests as gpu_tests
from benchmarks.gpu.parts import EXTRA, PARTS
from tests.conftest import REPOSITORY


@pytest.fixture
def call():
    """The command with these arguments, on a machine without a GPU."""

    def run(*arguments):
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)}
        return subprocess.run(
            [sys.executable, "-m", "benchmarks.gpu", *arguments],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def test_without_a_gpu_every_part_says_what_it_would_do(call):
    done = call()
    assert done.returncode == 0, done.stderr
    assert "nothing is run" in done.stdout
    for part in PARTS:
        assert f"{part.name}: {part.purpose}" in done.stdout
        assert f"-m benchmarks.gpu.{part.module}" in done.stdout
    for part in EXTRA:
        assert f"{part.name} ({part.purpose})" in done.stdout


def test_every_part_exists():
    for part in (*PARTS, *EXTRA):
        assert (REPOSITORY / "benchmarks" / "gpu" / f"{part.module}.py").is_file()


def test_everything_is_imported_without_packages_that_a_bare_machine_lacks():
    """PyTorch's CUDA images have no PyAV and none of the extras; nothing of the evaluation's videos and servers is needed here."""
    modules = [
        f"benchmarks.gpu.{path.stem}" for path in sorted((REPOSITORY / "benchmarks" / "gpu").glob("*.py")) if path.stem != "__init__"
    ]
    tests = [path.removesuffix(".py").replace("/", ".") for path in gpu_tests.FILES]
    missing = ("av", "openvino", "ncnn", "ray", "fastapi", "uvicorn", "websockets", "got10k", "supervision", "playwright")
    code = f"""
import importlib, sys, torch
sys.modules |= dict.fromkeys({missing}, None)
torch.cuda.is_available = lambda: True
for name in {[*modules, *tests, "tests.conftest"]}: importlib.import_module(name)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_an_unknown_part_is_named(call):
    done = call("--parts", "build,polish")
    assert done.returncode == 2
    assert "unknown parts polish: expected some of build, compile, tests" in done.stderr


def test_the_hash_of_the_sources_follows_them_but_not_the_results(tmp_path):
    for name in ("engine/a.py", "benchmarks/results/device/gpu_a.json", "esat_kernels/_native_build.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    first = machine.sources(tmp_path)
    (tmp_path / "benchmarks/results/device/gpu_a.json").write_text("2")
    (tmp_path / "esat_kernels/_native_build.json").write_text("2")
    assert machine.sources(tmp_path) == first
    (tmp_path / "engine/a.py").write_text("2")
    assert machine.sources(tmp_path) != first


def test_a_command_that_hangs_or_is_missing_says_nothing():
    assert machine.output("no-such-command") is None
    assert machine.output(sys.executable, "-c", "raise SystemExit(1)") is None
    assert machine.output(sys.executable, "-c", "import time; time.sleep(100)", seconds=0.2) is None
    assert machine.output("echo", "found") == "found"


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
