"""The machine that a result belongs to: device, driver, clocks, versions, commit."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


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

    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")


def _output(*command: str | Path) -> str | None:
    """What a command prints, or None if it is missing or fails."""
    if shutil.which(str(command[0])) is None:
        return None
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=30)
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit(repository: Path) -> str | None:
    """The commit's hash, with -dirty if tracked files differ; None outside a git checkout."""
    found = _output("git", "-C", repository, "rev-parse", "HEAD")
    if not found:
        return None
    changed = _output("git", "-C", repository, "status", "--porcelain", "--untracked-files=no")
    return f"{found}-dirty" if changed else found


def facts(repository: Path) -> dict[str, object]:
    """What every result file carries."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    query = "--query-gpu=driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit"
    nvcc = re.search(r"release ([\d.]+)", _output("nvcc", "--version") or "")
    return {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "driver_and_clocks": _output("nvidia-smi", query, "--format=csv,noheader"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "nvcc": nvcc.group(1) if nvcc else None,
        "commit": commit(repository),
    }
