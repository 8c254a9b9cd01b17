"""The table of what was measured on a device, `esat_kernels/tuned/<device>.json`, as the parts write it."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.parts import write as write_whole
from esat_kernels import _tuned
from esat_kernels.linear.triton_fp8_tiles import TABLE

Table = dict[str, dict[str, Any]]
TILES = ("linear", "attention", TABLE)  # the sections that hold tiles by problem


def read(device: str) -> Table:
    """The device's table; empty where there is none, or none that can be read, and without what are no tiles: it is written anew."""
    try:
        found = dict(_tuned._read(_tuned.file(device)))
    except (OSError, ValueError):
        return {}
    return found | {name: {key: tiles for key, tiles in found[name].items() if _are_tiles(tiles)} for name in TILES if name in found}


def _are_tiles(found: object) -> bool:
    return isinstance(found, list) and all(isinstance(number, int) for number in found)


def write(device: str, table: Table) -> None:
    """In place of the one before, at once: whoever is stopped leaves a whole one."""
    path = _tuned.file(device)
    path.parent.mkdir(exist_ok=True)
    write_whole(path, table)
    _tuned._table.cache_clear()
