"""The machine that a result belongs to: device, driver, clocks, versions, commit."""

from __future__ import annotations

import hashlib
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from engine.commit import commit_of

_SOURCES = {".py", ".cu", ".cuh", ".h", ".cpp", ".json", ".npz", ".txt", ".toml"}


def no_gpu() -> str | None:
    """None if PyTorch sees a CUDA device, else why not."""
    try:
        import torch
    except ImportError:
        return "PyTorch is not installed"
    return None if torch.cuda.is_available() else f"PyTorch {torch.__version__} sees no CUDA device"


def device_folder() -> str:
    """The device's name as a folder: "NVIDIA H200" is nvidia-h200."""
    import torch

    from esat_kernels import _tuned

    return _tuned.slug(torch.cuda.get_device_name())


def output(*command: str | Path, seconds: float = 20) -> str | None:
    """What a command prints, or None if it is missing, fails or hangs."""
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


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
    for folder in ("csrc", "engine", "esat_kernels", "benchmarks", "conformance", "tests", "CMakeLists.txt", "pyproject.toml"):
        for path in sorted([repository / folder, *(repository / folder).rglob("*")]):
            place = path.relative_to(repository)
            if (
                path.is_file()
                and path.suffix in _SOURCES
                and place.parts[:2] != ("benchmarks", "results")
                and not path.name.startswith("_native")
            ):
                found.update(f"{place} {path.stat().st_size}\n".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def clocks() -> str | None:
    """As the device is now."""
    return output("nvidia-smi", "--query-gpu=clocks.sm,clocks.mem,temperature.gpu,power.draw", "--format=csv,noheader")


def facts(repository: Path) -> dict[str, object]:
    """What every result file carries."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    query = "--query-gpu=driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit"
    nvcc = re.search(r"release ([\d.]+)", output("nvcc", "--version") or "")
    return {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "driver_and_clocks": output("nvidia-smi", query, "--format=csv,noheader"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "nvcc": nvcc.group(1) if nvcc else None,
        "commit": commit(repository),
        "sources": sources(repository),
    }
