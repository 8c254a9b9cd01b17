"""docs/track.md: its example runs as it stands, and the options and formats that it names are there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from engine.clips.outputs import FORMATS
from engine.weights import DEFAULT_MODEL, shipped_path
from tests.cli.run import esat
from tests.conftest import REPOSITORY
from tests.engine.video.clips import pictures, write_clip

TEXT = (REPOSITORY / "docs" / "track.md").read_text()


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert shipped_path(DEFAULT_MODEL).is_file(), "the example uses the shipped weights"
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "clip.mp4", pictures(6, 320, 240))
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(example, "track.md", "exec"), {})
    assert capsys.readouterr().out.startswith("6 ")
    assert [row["id"] for row in json.loads(Path("out.json").read_text())["frames"]] == [1, 1, 1, 1, 1, 2, 1, 2]
    assert Path("out.xml").is_file()


def test_options_and_formats_are_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert esat("track", "--help") == 0
    known = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    named = set(re.findall(r"`[^`\n]*(--[a-z][a-z-]+)", TEXT)) - {"--function-file"}
    assert {"--boxes", "--reverse", "--search-factor", "--cvat"} <= named <= known | {"--help"}
    table = TEXT.partition("## Outputs")[2].partition("Rows of JSON")[0]
    assert {line.split("|")[2].strip(" `") for line in table.splitlines() if line.startswith("| `")} == set(FORMATS)


def test_lines_are_short() -> None:
    assert [line for line in TEXT.splitlines() if len(line) > 100] == []
