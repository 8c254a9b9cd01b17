"""The table of what was measured on a device, `esat_kernels/tuned/<device>.json`, as the parts write it."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.parts import write as write_whole
from esat_kernels import _tuned

Table = dict[str, dict[str, Any]]


def read(device: str) -> Table:
    """The device's table; empty where there is none, or none that can be read: it is written anew."""
    try:
        return dict(_tuned._read(_tuned.file(device)))
    except (OSError, ValueError):
        return {}


def write(device: str, table: Table) -> None:
    """In place of the one before, at once: whoever is stopped leaves a whole one."""
    path = _tuned.file(device)
    path.parent.mkdir(exist_ok=True)
    write_whole(path, table)
    _tuned._table.cache_clear()
