"""The native library as it is loaded: instruction sets, the reason where it is missing, no PyTorch inside."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import esat_kernels
from esat_kernels import _native
from tests.require import require

LEVELS = ("portable", "avx2", "avx512", "avx512bf16", "amx")
FLAGS = {
    "avx2": {"avx2", "fma", "f16c"},
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "avx512bf16": {"avx512_bf16"},
    "amx": {"amx_tile", "amx_bf16"},
}


def machine_level() -> str:
    """What /proc/cpuinfo says, by a path of its own."""
    flags = set(Path("/proc/cpuinfo").read_text().split("flags", 1)[-1].split("\n", 1)[0].replace(":", " ").split())
    level = "portable"
    for name, needed in FLAGS.items():
        if not needed <= flags:
            break
        level = name
    return level


@pytest.fixture(autouse=True)
def _library() -> None:
    require("cpu", _native.unavailable())


def test_detected_level_is_the_machine_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ESAT_CPU", raising=False)
    found, expected = _native.cpu_isa(), machine_level()
    # The system may refuse the tiles to a process although the processor has them.
    assert found == expected or (expected == "amx" and found == "avx512bf16")


@pytest.mark.parametrize("level", LEVELS)
def test_forced_level(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ESAT_CPU", raising=False)
    best = _native.cpu_isa()
    monkeypatch.setenv("ESAT_CPU", level)
    if LEVELS.index(level) <= LEVELS.index(best):
        assert _native.cpu_isa() == level
    else:
        with pytest.raises(ValueError, match=f"ESAT_CPU={level}: this machine has no more than {best}"):
            _native.cpu_isa()


def test_unknown_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESAT_CPU", "sse9")
    with pytest.raises(ValueError, match="ESAT_CPU must be portable, avx2, avx512, avx512bf16 or amx, got 'sse9'"):
        _native.cpu_isa()


def test_backends_lists_the_cpu() -> None:
    assert esat_kernels.backends()["cpu"] is None
    cuda = esat_kernels.backends()["cuda"]
    assert cuda is None or cuda.startswith("not built: ") or cuda == "no CUDA device"


def test_library_is_linked_to_neither_pytorch_nor_openmp() -> None:
    path = Path(_native.library().__file__ or "")
    require("readelf", None if shutil.which("readelf") else "no binutils")
    dynamic = subprocess.run(["readelf", "--dynamic", "--wide", str(path)], capture_output=True, text=True, check=True).stdout
    needed = [line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "(NEEDED)" in line]
    assert not [name for name in needed if any(word in name for word in ("torch", "c10", "gomp", "omp", "cudart"))], needed
    symbols = subprocess.run(["readelf", "--dyn-syms", "--wide", str(path)], capture_output=True, text=True, check=True).stdout
    assert "GOMP_parallel" in symbols or "omp_get_max_threads" in symbols  # unresolved: PyTorch's runtime answers
    assert "c10" not in symbols
    assert "at6Tensor" not in symbols


WITHOUT_LIBRARY = """
import importlib, json, sys
from pathlib import Path
sys.meta_path = [finder for finder in sys.meta_path if "Editable" not in getattr(finder, "__name__", "")]  # it would find the real library
import torch, esat_kernels
from esat_kernels import _native

q = torch.randn(1, 2, 5, 8)
assert esat_kernels.fda_attention(q, q, q).shape == q.shape
assert esat_kernels.select_tokens(torch.rand(1, 5), 2).shape == (1, 2)
try:
    esat_kernels.select_tokens(torch.rand(1, 5), 2, backend="cpu")
except NotImplementedError as error:
    assert "no native library" in str(error), error
else:
    raise SystemExit("backend cpu ran")
print(esat_kernels.backends()["cpu"])
note = Path(_native.__file__).with_name("_native_build.json")
for text in (json.dumps({"reason": "cmake not found"}), "{"):
    note.write_text(text)
    print(importlib.reload(_native).unavailable())
"""


def test_without_library_the_reference_runs_and_the_reason_is_told(tmp_path: Path) -> None:
    source = Path(esat_kernels.__file__).parent
    shutil.copytree(source, tmp_path / "esat_kernels", ignore=shutil.ignore_patterns("*.so", "__pycache__", "_native_build.json"))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", WITHOUT_LIBRARY], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    deleted, noted, damaged = done.stdout.splitlines()
    assert deleted == f"no native library: no _esat_native in {tmp_path / 'esat_kernels'}, `make native` builds it"
    assert noted == "no native library: cmake not found"
    assert damaged.startswith("no native library: unreadable note _native_build.json")
