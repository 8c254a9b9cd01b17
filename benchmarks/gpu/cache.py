"""Triton's cache of compiled kernels: what of it is worth keeping, and how it is taken up at another place."""

from __future__ import annotations

import json
from pathlib import Path

_KEPT = {".cubin", ".json", ".so"}  # machine code, what Triton knows of it, launchers; not the steps between, which are most of the bytes


def files(folder: Path) -> list[Path]:
    """What has to be kept so that nothing is compiled again."""
    return sorted(path for path in folder.rglob("*") if path.suffix in _KEPT and path.is_file() and not path.parent.name.startswith("tmp."))


def settle(folder: Path) -> None:
    """Triton lists the files of a kernel by their absolute paths: name those of a cache that was moved here by where they are now."""
    for group in folder.rglob("__grp__*.json"):
        try:
            content = json.loads(group.read_text())
        except ValueError:  # half written: the kernel is compiled again
            group.unlink()
            continue
        here = {name: str(group.with_name(name)) for name in content.get("child_paths", {}) if group.with_name(name).is_file()}
        if content.get("child_paths") != here:
            group.write_text(json.dumps({"child_paths": here}))
