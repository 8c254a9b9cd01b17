"""The machine that a result belongs to: device, driver, clocks, versions, commit. PyTorch is not imported: that alone takes seconds."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from engine.commit import commit_of

_SOURCES = {".py", ".cu", ".cuh", ".h", ".cpp", ".npz", ".txt", ".toml"}  # no JSON: measured tiles and choices change while parts run
CLOCKS_S = 3.0  # behind a part: a device that hangs may not answer at all


def no_gpu() -> str | None:
    """None if there is a CUDA device and a PyTorch for it, else why not."""
    found = find_spec("torch")
    if found is None or found.origin is None:
        return "PyTorch is not installed"
    about = Path(found.origin).with_name("version.py")
    if about.is_file() and re.search(r"^cuda\b.*=\s*None", about.read_text(), re.MULTILINE):
        return f"PyTorch {_version('torch')} is built without CUDA"
    return None if _query("name") else "nvidia-smi shows no CUDA device"


def output(*command: str | Path, seconds: float = 20) -> str | None:
    """What a command prints, or None if it is missing, fails or hangs."""
    try:
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return None
    try:
        printed, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that the driver holds does not end
            process.wait(0.2)
        return None
    return printed.strip() if process.returncode == 0 else None


def _query(fields: str, seconds: float = 20) -> str | None:
    """Of the first device."""
    found = output("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", seconds=seconds)
    return found.splitlines()[0] if found else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit(repository: Path) -> str | None:
    """The commit's hash, with -dirty if tracked files differ; None outside a git checkout."""
    found = commit_of(repository)
    return None if found is None else found.hash + "-dirty" * found.changed


def sources(repository: Path) -> str:
    """A hash of everything that the results depend on: it works outside a git checkout too, and with local changes."""
    found = hashlib.sha256()
    for folder in ("csrc", "engine", "esat_kernels", "benchmarks", "conformance", "tests", "pyproject.toml"):
        for path in sorted([repository / folder, *(repository / folder).rglob("*")]):
            relative = path.relative_to(repository)
            if path.is_file() and path.suffix in _SOURCES and relative.parts[:2] != ("benchmarks", "results"):
                found.update(f"{relative} {path.stat().st_size}\n".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def clocks() -> str | None:
    """As the device is now; None where it does not answer in time."""
    return _query("clocks.sm,clocks.mem,temperature.gpu,power.draw", CLOCKS_S)


def triton_needs() -> str:
    """What Triton compiles the launcher of every kernel with, or what of it is missing: without it none runs."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", ""), "gcc", "clang"))), None)
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")  # Debian's own has no headers
    headers = Path(sysconfig.get_paths(scheme)["include"], "Python.h")
    missing = [*([] if compiler else ["no C compiler (CC, gcc, clang)"]), *([] if headers.is_file() else [f"no {headers}"])]
    return f"{' and '.join(missing)}: Triton's kernels cannot be launched" if missing else str(compiler)


def facts(repository: Path) -> dict[str, object]:
    """What every result file carries."""
    nvcc = re.search(r"release ([\d.]+)", output("nvcc", "--version") or output("/usr/local/cuda/bin/nvcc", "--version") or "")
    return {
        "device": _query("name"),
        "capability": _query("compute_cap"),
        "memory": _query("memory.total"),
        "driver_and_clocks": _query("driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit"),
        "python": platform.python_version(),
        "torch": _version("torch"),
        "triton": _version("triton"),
        "nvcc": nvcc.group(1) if nvcc else None,
        "for_triton": triton_needs(),
        "commit": commit(repository),
        "sources": sources(repository),
    }
