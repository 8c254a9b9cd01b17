"""The GPU command where there is no GPU: what it prints; and that everything it needs is there."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from benchmarks.gpu import machine
from benchmarks.gpu import tests as gpu_tests
from benchmarks.gpu.children import PATIENCE_S
from benchmarks.gpu.machine import CLOCKS_S
from benchmarks.gpu.parts import EXTRA, MINUTES, PARTS, PEERS, STAGES
from benchmarks.gpu.runner import GRACE_S
from tests.conftest import REPOSITORY


@pytest.fixture
def call():
    """The command with these arguments, on a machine without a GPU."""

    def run(*arguments, **variables):
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY), **variables}
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
    done = call(OUT="/somewhere")
    assert done.returncode == 0, done.stderr
    assert "nothing is run" in done.stdout
    for part in PARTS:
        assert f"{part.name}: {part.purpose}" in done.stdout
        assert f"-m benchmarks.gpu.{part.module}" in done.stdout
    for part in (*PEERS, *EXTRA):
        assert f"{part.name} ({part.purpose})" in done.stdout
    for name, stage in STAGES.items():
        assert f"stage {name}, {sum(part.planned_s for part in stage)} s planned" in done.stdout
    assert f"{sum(part.planned_s for part in PARTS)} s planned in all, {60 * MINUTES:.0f} s at most" in done.stdout
    assert "After each part: /somewhere/gpu.tar.gz" in done.stdout


def test_the_stages_fit_into_one_call():
    """The first minute tells whether attention is right and fast, two more what a frame costs, and all of it is over in nine minutes."""
    planned = {name: sum(part.planned_s for part in stage) for name, stage in STAGES.items()}
    assert planned["a"] <= 60
    assert planned["b"] <= 120
    assert sum(planned.values()) <= 540 <= 60 * MINUTES - GRACE_S - PATIENCE_S - CLOCKS_S
    assert len({part.name for part in (*PARTS, *PEERS, *EXTRA)}) == len(PARTS) + len(PEERS) + len(EXTRA)


def test_stages_and_parts_are_chosen_by_name(call):
    first = call("--stages", "a")
    assert "stage a" in first.stdout
    assert "stage b" not in first.stdout
    assert "  frame: " not in first.stdout
    with_peers = call("--stages", "a", "--peers").stdout
    assert with_peers.index("  attention: ") < with_peers.index("  peers-frame: ")
    tiles = call("--parts", "products", "--again").stdout  # never without what a frame chooses among them
    assert tiles.index("  products: ") < tiles.index("  compile-tiles: ") < tiles.index("  frame-tiles: ") < tiles.index("  dependent: ")
    assert "  tests: " not in tiles
    assert "  products: " not in call("--parts", "frame-tiles").stdout
    assert call("--parts", "fp8").stdout.index("  fp8: ") < call("--parts", "fp8").stdout.index("  dependent: ")
    one = call("--parts", "training").stdout
    assert "  training: " in one
    assert "  attention: " not in one


def test_every_part_exists():
    for part in (*PARTS, *PEERS, *EXTRA):
        assert (REPOSITORY / "benchmarks" / "gpu" / f"{part.module}.py").is_file()


def test_everything_is_imported_without_packages_that_a_bare_machine_lacks():
    """PyTorch's CUDA images have no PyAV and none of the extras; nothing of the evaluation's videos and servers is needed here."""
    modules = [
        f"benchmarks.gpu.{path.stem}" for path in sorted((REPOSITORY / "benchmarks" / "gpu").glob("*.py")) if path.stem != "__init__"
    ]
    tests = [path.removesuffix(".py").replace("/", ".") for path in gpu_tests.FILES]
    missing = (
        "esat_kernels._esat_native",
        "av",
        "openvino",
        "ncnn",
        "ray",
        "fastapi",
        "uvicorn",
        "websockets",
        "got10k",
        "supervision",
        "playwright",
    )
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
    for option, known in (("--parts", "library, attention, hopper"), ("--stages", "a, b, c")):
        done = call(option, "polish")
        assert done.returncode == 2
        assert f"unknown {option[2:]} polish: expected some of {known}" in done.stderr


def test_a_machine_is_asked_without_pytorch():
    """Its import would take the first seconds of the first stage."""
    code = "import sys; from benchmarks.gpu import machine, __main__, runner; print(machine.no_gpu(), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.endswith(" False\n"), done.stdout + done.stderr


def test_the_hash_of_the_sources_follows_them_but_not_the_results(tmp_path):
    for name in ("engine/a.py", "benchmarks/results/device/gpu_a.json", "esat_kernels/tuned/device.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    first = machine.sources(tmp_path)
    (tmp_path / "benchmarks/results/device/gpu_a.json").write_text("2")
    (tmp_path / "esat_kernels/tuned/device.json").write_text("2")
    assert machine.sources(tmp_path) == first
    (tmp_path / "engine/a.py").write_text("2")
    assert machine.sources(tmp_path) != first


def test_what_triton_needs_and_lacks_is_said_at_first(tmp_path, monkeypatch):
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(machine.sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path)})
    monkeypatch.setattr(machine.shutil, "which", lambda name: "/bin/gcc" if name == "gcc" else None)
    assert machine.triton_needs() == "/bin/gcc"
    (tmp_path / "Python.h").unlink()
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    expected = f"no C compiler (CC, gcc, clang) and no {tmp_path / 'Python.h'}: Triton's kernels cannot be launched"
    assert machine.triton_needs() == expected
    assert machine.facts(tmp_path)["for_triton"] == expected


def test_a_command_that_hangs_or_is_missing_says_nothing():
    assert machine.output("no-such-command") is None
    assert machine.output(sys.executable, "-c", "raise SystemExit(1)") is None
    assert machine.output(sys.executable, "-c", "import time; time.sleep(100)", seconds=0.2) is None
    assert machine.output("echo", "found") == "found"


def test_a_command_that_hangs_and_cannot_be_killed_is_not_waited_for(monkeypatch):
    """As the driver may hold one."""
    monkeypatch.setattr(machine.subprocess.Popen, "kill", lambda process: None)
    started = time.monotonic()
    assert machine.output("sleep", "20", seconds=0.1) is None
    assert time.monotonic() - started < 15


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
