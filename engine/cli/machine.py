"""What this machine and this installation are, as plain values."""

from __future__ import annotations

import importlib
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

ISA_FLAGS = ("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512vl", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_int8", "amx_bf16")

_PACKAGES = ("esat-engine", "torch", "triton", "numpy", "opencv-python-headless", "av", "safetensors", "typer", "rich")


def describe() -> dict[str, Any]:
    """Everything that `esat info` shows. Slow parts: PyTorch's import and the hash of the shipped weights."""
    import torch

    import esat_kernels
    from engine.config import preset
    from engine.cpus import bound_cpus, cpu_quota
    from engine.runners.cpu.network import kernels_in_use
    from engine.runners.cpu.runner import unsupported
    from engine.runners.protocol import MODES

    backends = esat_kernels.backends()
    return {
        "versions": {"python": platform.python_version(), **{name: package_version(name) for name in _PACKAGES}},
        "cpu": {
            "name": cpu_name(),
            "instruction_sets": cpu_flags(),
            "kernels_use": backends["cpu"] or kernels_in_use(),
            "kernels": [] if backends["cpu"] else [row._asdict() for row in esat_kernels.kernel_table()],
            "cores": bound_cpus(),
            "quota": cpu_quota(),
            "threads": torch.get_num_threads(),
        },
        "devices": {"cpu": None, **_cuda_devices(torch)},
        "backends": backends,
        "cuda_library": esat_kernels.cuda_library(),
        "tuned": esat_kernels.tuned_tables(),
        "cpu_engine": {dtype: unsupported(preset("esat-s-256"), dtype) for dtype in MODES},
        "fp8": _fp8(torch),
        "openmp": sorted(Path(path).name for path in openmp_runtimes()),
        "weights": shipped_weights(),
    }


def package_version(name: str) -> str | None:
    """The installed version of a distribution, None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """Those of the vector and matrix extensions our kernels know that the processor has; empty where /proc/cpuinfo is missing."""
    present = set(_cpuinfo("flags").split())
    return [flag for flag in ISA_FLAGS if flag in present]


def openmp_runtimes() -> set[str]:
    """Files of the OpenMP runtimes that this process has loaded; two of them would mean two pools of threads that fight."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return set()
    files = {line.split(maxsplit=5)[5] for line in lines if len(line.split(maxsplit=5)) == 6}
    return {file for file in files if Path(file).name.startswith(("libgomp", "libomp", "libiomp"))}


def shipped_weights() -> dict[str, dict[str, Any]]:
    """Presets whose weights lie in the package: size, hash and what the file says of itself."""
    from engine.config import PRESETS
    from engine.weights.io import file_hash
    from engine.weights.shipped import shipped_path

    paths = {name: shipped_path(name) for name in PRESETS}
    return {
        name: {"path": str(path), "mib": round(path.stat().st_size / 2**20, 1), "sha256": file_hash(path)}
        for name, path in paths.items()
        if path.is_file()
    }


def _cuda_devices(torch: Any) -> dict[str, str | None]:
    if not torch.cuda.is_available():
        return {"cuda": "this PyTorch is built without CUDA" if torch.version.cuda is None else "no CUDA device found"}
    return {f"cuda:{index}": None for index in range(torch.cuda.device_count())}


def _fp8(torch: Any) -> dict[str, str | None]:
    """For each CUDA device why the GPU engine cannot compute in fp8 there, None if it can. Of the CPU "cpu_engine" tells."""
    import esat_kernels

    return {
        name: esat_kernels.backends()["triton"] or esat_kernels.fp8_unsupported(torch.device(name))
        for name in (f"cuda:{index}" for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0))
    }


def device_name(device: str) -> str:
    """A CUDA device's product name; the processor's for `cpu`."""
    if device == "cpu":
        return cpu_name()
    return str(importlib.import_module("torch").cuda.get_device_name(device))


def _cpuinfo(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field), "")
