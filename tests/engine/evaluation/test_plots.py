"""Plots appear when they are complete; what they show is tested with the command."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from engine.errors import SinkError
from engine.evaluation.plots import write_plots


def test_a_full_disk_leaves_the_old_plots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_the_disk(figure: Figure, path: str | Path, **options: Any) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "success.png").write_bytes(b"old")
    monkeypatch.setattr(Figure, "savefig", fill_the_disk)
    with pytest.raises(SinkError, match=r"cannot write .*success.png: No space left on device"):
        write_plots(tmp_path, [], "nothing")
    assert os.listdir(tmp_path) == ["success.png"]
    assert (tmp_path / "success.png").read_bytes() == b"old"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match="file is not a folder"):
        write_plots(tmp_path / "file", [], "nothing")
