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

X86 = {  # flags of /proc/cpuinfo, beyond those of the sets named after "+"
    "portable": set(),
    "avx2": {"avx2", "fma", "f16c"},
    "avx2vnni": {"+avx2", "avx_vnni"},
    "avx512": {"+avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "avx512vnni": {"+avx512", "avx512_vnni"},
    "avx512bf16": {"+avx512vnni", "avx512_bf16"},
    "amx": {"+avx512bf16", "amx_tile", "amx_bf16", "amx_int8"},
}
ARM = {
    "portable": set(),
    "neon": {"asimd"},
    "neondot": {"+neon", "asimddp"},
    "neoni8mm": {"+neondot", "i8mm"},
    "neonbf16": {"+neoni8mm", "bf16"},
}
SETS = {**X86, **ARM}


def machine_sets() -> list[str]:
    """What /proc/cpuinfo says, by a path of its own."""
    text = Path("/proc/cpuinfo").read_text()
    line = text.split("flags" if "flags" in text else "Features", 1)[-1].split("\n", 1)[0]
    flags = set(line.replace(":", " ").split())
    found: list[str] = []
    for name, needed in SETS.items():
        if needed <= flags | {f"+{name}" for name in found}:
            found.append(name)
    return found


@pytest.fixture(autouse=True)
def _library() -> None:
    require("cpu", _native.unavailable())


def test_detected_sets_are_the_machine_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESAT_CPU", "portable")
    found, expected = _native.cpu_sets(), machine_sets()
    # The system may refuse the tiles to a process although the processor has them.
    assert found == expected or (expected[-1] == "amx" and found == expected[:-1])
    monkeypatch.delenv("ESAT_CPU")
    assert _native.cpu_isa() == found[-1]


@pytest.mark.parametrize("name", [*SETS, "sse9"])
def test_named_set(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = _native.cpu_sets()
    monkeypatch.setenv("ESAT_CPU", name)
    if name in sets:
        assert _native.cpu_isa() == name
    else:
        for call in (_native.cpu_isa, _native.kernel_table):
            with pytest.raises(ValueError, match="ESAT_CPU must be") as error:
                call()
            assert str(error.value) == f"ESAT_CPU must be a set of this machine ({', '.join(sets)}), got '{name}'"


def test_each_operation_takes_the_best_set_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _native.cpu_sets():
        monkeypatch.setenv("ESAT_CPU", name)
        rows = _native.kernel_table()
        assert {row.operation for row in rows} >= {"attention float32", "attention backward bfloat16", "crop", "products float32"}
        for row in rows:
            within = [kernel for kernel in row.sets if _needs(kernel) <= _needs(name)]
            assert row.chosen == (within[0] if within else None)
            assert len(set(row.sets)) == len(row.sets)
        chosen = {row.operation: row.chosen for row in rows}
        assert chosen["crop"] is not None
        assert (chosen["products float32"] is None) == (_native.library().kernels("float32") is None)
        assert (chosen["products bfloat16"] is None) == (_native.library().kernels("bfloat16") is None)


def _needs(name: str) -> set[str]:
    needed = SETS[name]
    return needed.union(*(_needs(flag[1:]) for flag in needed if flag[0] == "+")) - {flag for flag in needed if flag[0] == "+"}


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
    names = " ".join(line.split()[-1] for line in symbols.splitlines() if line.strip())  # an address may hold these letters too
    assert "GOMP_parallel" in names or "omp_get_max_threads" in names  # unresolved: PyTorch's runtime answers
    assert "c10" not in names
    assert "at6Tensor" not in names


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


def test_a_library_of_other_sources_says_so(monkeypatch):
    require("cpu", _native.unavailable())
    monkeypatch.setattr(_native, "INTERFACE", 0)
    library, reason = _native._load()
    assert library is None
    assert reason == f"no native library: it has the interface {_native.library().interface}, this code 0; `make native` builds it again"
