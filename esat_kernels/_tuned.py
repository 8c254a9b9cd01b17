"""What was measured on a device, `tuned/<device>.json`: launch shapes by operation, the engine's choices, whether dependent launches pay.

`benchmarks.gpu` writes it. Launch shapes and choices are a matter of time alone, and stay in use when the kernels change, as long as they are still
among those that may be chosen. Dependent launches are a matter of order too: they hold for the sources and compilers that they were checked with.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch

FOLDER = Path(__file__).with_name("tuned")
_PACKAGE = Path(__file__).parent
T = TypeVar("T")


def slug(device: str) -> str:
    """ "NVIDIA H200" -> "nvidia-h200"."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def file(device: str) -> Path:
    """Where the device's table lies, if there is one."""
    return FOLDER / f"{slug(device)}.json"


@functools.cache
def sources() -> str:
    """A hash of what the Triton kernels and their launches are made of: this package's Python files and the versions of the compilers. An order of
    launches that is right with a kernel may be wrong once it, or one around it, has changed; the engine's own order is not part of it, since each
    kernel waits for all that ran before.
    """
    found = hashlib.sha256(_compilers().encode())
    for path in sorted(_PACKAGE.rglob("*.py")):
        found.update(f"{path.relative_to(_PACKAGE)} {path.stat().st_size}\n".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def _compilers() -> str:
    """Triton's version and that of PyTorch's CUDA, as far as they are there."""
    triton = None
    with contextlib.suppress(ImportError):
        triton = importlib.import_module("triton").__version__
    return f"triton {triton} cuda {torch.version.cuda}\n"


@functools.cache
def device_name(device: torch.device) -> str:
    """As CUDA calls it; empty for a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""


@functools.cache
def _table(device: str) -> dict[str, dict[str, Any]]:
    return _read(file(device)) if device and file(device).is_file() else {}


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """ValueError for a file that is no table."""
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): delete it; `make gpu GPU_OPTIONS=--again` measures this device anew") from error
    if not isinstance(found, dict) or not all(isinstance(part, dict) for part in found.values()):
        raise ValueError(f"{path} is no table of measurements: delete it; `make gpu GPU_OPTIONS=--again` measures this device anew")
    return found


def find(device: str, operation: str, key: str) -> list[int] | None:
    """The measured tiles of an operation's problem, or None."""
    return _table(device).get(operation, {}).get(key)


def chosen(device: str, operation: str, key: str, possible: Iterable[T]) -> T | None:
    """The measured tiles of a problem, a dataclass of numbers; None where nothing was measured, or nothing that is possible."""
    measured = find(device, operation, key)
    return None if measured is None else next((tiles for tiles in possible if list(vars(tiles).values()) == measured), None)


def measured(device: torch.device, part: str) -> dict[str, Any]:
    """A part of the device's table; empty if nothing was measured."""
    return _table(device_name(device)).get(part, {})


def dependent_launches(device: torch.device) -> bool:
    """Whether programmatic dependent launches were right, and faster, on this device with the sources as they are now."""
    launches = measured(device, "launches")
    return launches.get("dependent") is True and launches.get("sources") == sources()


def tables() -> dict[str, str]:
    """What each table that is here says of itself, by its device."""
    return {path.stem: _about(path) for path in sorted(FOLDER.glob("*.json"))}


def about(device: str) -> str | None:
    """What a device's table says of itself; None without one."""
    return _about(file(device)) if file(device).is_file() else None


def _about(path: Path) -> str:
    try:
        table = _read(path)
    except ValueError as error:
        return str(error)
    launches = table.get("launches", {})
    dependent = "not measured"
    if launches:
        dependent = "on" if launches.get("dependent") is True else "off"
    if launches and launches.get("sources") != sources():
        found = f"{launches.get('sources')}, these are {sources()}"
        dependent = f"off, since they were measured with other sources or compilers ({found}): `make gpu` measures them"
    parts = (("linear", "products"), ("linear_fp8", "products in fp8"), ("attention", "sizes of attention"))
    counts = [f"{len(table.get(operation, {}))} {what}" for operation, what in parts]
    return f"tiles of {', '.join(counts[:-1])} and {counts[-1]}; dependent launches {dependent}"
