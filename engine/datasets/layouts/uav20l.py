"""UAV20L, the long sequences of UAV123: `data_seq/UAV123/SEQ/000001.jpg` and `anno/UAV20L/SEQ.txt`."""

from __future__ import annotations

from pathlib import Path

from engine.datasets.layouts.uav123 import read_version
from engine.datasets.sequences import Failure, Sequence


def detect(root: Path) -> bool:
    return any((root / "anno" / "UAV20L").glob("*.txt"))


def read(root: Path, training: bool = False) -> list[Sequence | Failure]:
    return read_version(root, "UAV20L")
