"""Files that appear under their name when they are complete: which names they may have, and what they replace."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from engine.errors import SinkError
from engine.files import PendingFile


def test_a_link_stays_and_the_file_behind_it_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "real.txt").write_text("old")
    for name, behind in (("link", "there/real.txt"), ("dangling", "there/new.txt")):
        (tmp_path / name).symlink_to(behind)
        with PendingFile(tmp_path / name) as pending:
            assert pending.partial.parent == tmp_path / "there"
            pending.partial.write_text("new")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / behind).read_text() == "new"
    assert sorted(os.listdir(tmp_path / "there")) == ["new.txt", "real.txt"]


def test_pipes_and_devices_are_refused_and_stay(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    for target in (pipe, tmp_path / "link", Path("/dev/null")):
        with pytest.raises(SinkError, match=f"cannot write {target}: it is a pipe or a device"):
            PendingFile(target)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]


@pytest.mark.parametrize("name", ["a" * 250 + ".json", "映" * 83 + ".json"])
def test_every_name_that_a_file_may_have(tmp_path: Path, name: str) -> None:
    with PendingFile(tmp_path / name) as pending:
        assert pending.partial.name.startswith(".")
        pending.partial.write_text("all")
    assert os.listdir(tmp_path) == [name]


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    for name, message in (("a" * 300, "File name too long"), ("a" * 300 + "/b", "File name too long"), ("circle", "symbolic links")):
        with pytest.raises(SinkError, match=f"cannot write .*: .*{message}"):
            PendingFile(tmp_path / name)
    assert os.listdir(tmp_path) == ["circle"]


def test_standard_output_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SinkError, match="cannot write -: expected the name of a file"):
        PendingFile(Path("-"))
    assert os.listdir(tmp_path) == []


def test_a_folder_that_may_not_be_entered(locked: Path) -> None:
    for place in (locked / "a.json", locked / "new" / "a.json"):
        with pytest.raises(SinkError, match=f"cannot write {place}: Permission denied"):
            PendingFile(place)
