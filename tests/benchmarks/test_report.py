"""The report is made from the parts' files alone, goes on where it stopped, and calls a change a change only outside the noise."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import report, report_text
from benchmarks.report_compare import compare, differences, plot
from benchmarks.report_text import Part
from engine.cli.app import main
from engine.cli.exits import run_function
from engine.errors import ConfigError


def _row(impl, median, p99, **more):
    figures = {"median_us": median, "p99_us": p99, "ratio_to_sdpa": None, "ok": True}
    return {"impl": impl, "tokens": 720, "dtype": "bf16", "inputs": "normal", "device": "cpu", **figures, **more}


def _run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        run_function(report.main, list(map(str, arguments)))
    return caught.value.code or 0


def test_changes_outside_the_spread_are_named(tmp_path):
    before = [_row("ours", 100.0, 110.0), _row("sdpa", 200.0, 300.0), _row("flex", 50.0, 51.0)]
    now = [_row("ours", 80.0, 85.0), _row("sdpa", 240.0, 260.0), _row("eager", 9.0, 9.1)]
    found = compare(now, before)
    assert [(row["before us"], row["now us"], row["changed"]) for row in found] == [
        (100.0, 80.0, "faster"),
        (200.0, 240.0, "within the noise"),
    ]
    assert found[0]["ratio"] == pytest.approx(0.8)
    assert [row["spread"] for row in found] == pytest.approx([0.1, 0.5])  # the wider of both
    assert compare([_row("ours", 130.0, 131.0)], before)[0]["changed"] == "slower"
    plot(found, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_rows_without_times_are_shown_but_not_compared(tmp_path):
    failed = _row("flex", None, None, ok=False, reason="no compiler")
    assert compare([failed], [failed]) == []
    part = Part("attention", [_row("ours", 1.0, 2.0), failed], {"cpu": "x", "commit": "b"})
    earlier = Part("attention", [_row("ours", 4.0, 4.1)], {"cpu": "x", "commit": "a"})
    text = report_text.write(tmp_path, [part, Part("frame-esat-384", [], {"cpu": "x"})], {"attention": earlier}).read_text()
    assert "| flex |  |  |  |  | failed: no compiler |" in text
    assert "| cpu | x |" in text
    assert "1 of 1 rows outside the noise. Not the same: commit: a before, b now." in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attention-comparison.png", "attention.png", "report.md"]
    for name in ("attention.png", "attention-comparison.png"):
        assert f"]({name})" in text
    assert differences({"a": 1}, {"a": 1}) == []


@pytest.fixture
def processes(monkeypatch):
    """Stands for the benchmarks' processes: writes one row each, or ends badly. Counts the calls."""
    calls: list[list[str]] = []

    def run(module: str, arguments: list[str]) -> int:
        calls.append([module, *arguments])
        rows = {"benchmarks.attention": _row("ours", 10.0 + len(calls), 12.0), "benchmarks.table2": None}
        frame = {"impl": "ours", "model": arguments[1], "scope": "network", "dtype": "bf16", "median_ms": 5.0, "threads": 2}
        row = rows.get(module, frame)
        Path(arguments[-1]).write_text("" if row is None else json.dumps(row | {"machine": {}}) + "\n")
        return 3 if "fails" in arguments else 0

    monkeypatch.setattr(report, "_run", run)
    machine = {"cpu": "x", "commit": "a", "threads": 2, "dirty": False}
    monkeypatch.setattr(report, "machine", lambda: dict(machine))
    return calls, machine


def test_a_run_goes_on_where_it_stopped(tmp_path, processes):
    calls, machine = processes
    assert _run("--out", tmp_path / "a", "--only", "attention,frame") == 0
    assert [command[0] for command in calls] == ["benchmarks.attention", "benchmarks.frame", "benchmarks.frame"]
    (tmp_path / "a" / "frame-esat-384.json").unlink()
    assert _run("--out", tmp_path / "a", "--only", "attention,frame") == 0
    assert [command[2] for command in calls[3:]] == ["esat-384"]
    machine["commit"] = "b"  # figures of another commit are not this one's
    assert _run("--out", tmp_path / "a", "--only", "attention") == 0
    assert len(calls) == 5
    assert _run("--out", tmp_path / "a", "--only", "attention", "--quick") == 0
    assert len(calls) == 6
    assert _run("--out", tmp_path / "a", "--only", "attention", "--quick", "--fresh") == 0
    assert len(calls) == 7
    assert _run("--out", tmp_path / "b", "--only", "attention", "--compare", tmp_path / "a") == 0
    text = (tmp_path / "b" / "report.md").read_text()
    assert "against the earlier report" in text
    assert "Not the same: arguments" in text
    before = len(calls)
    assert _run("--out", tmp_path / "b", "--reuse") == 0
    assert len(calls) == before


def test_each_benchmark_says_when_it_begins_and_ends(tmp_path, processes, capsys):
    (tmp_path / "a").mkdir()
    assert _run("--out", tmp_path / "a", "--only", "attention") == 0
    capsys.readouterr()
    assert _run("--out", tmp_path / "a", "--only", "attention,table2") == 0
    said = [line for line in capsys.readouterr().err.splitlines() if " benchmarks: " in line]
    assert said[0].startswith("1 of 2 benchmarks: attention is used again (")
    assert said[1] == "2 of 2 benchmarks: table2 begins"
    assert re.fullmatch(r"2 of 2 benchmarks: table2 took \d+ s", said[2])


def test_a_benchmark_that_fails_leaves_no_part(tmp_path, processes, capsys):
    assert _run("--out", tmp_path / "fails", "--only", "table2", "--device", "fails") == 2
    assert "benchmarks.table2 ended with exit code 3" in capsys.readouterr().err
    assert not list((tmp_path / "fails").glob("*.json"))


@pytest.mark.parametrize("content", ["nonsense", "{}", '{"rows": 3, "about": {}}'])
def test_a_damaged_part_is_named(tmp_path, content):
    (tmp_path / "frame-esat-384.json").write_text(content)
    with pytest.raises(ConfigError, match=r"frame-esat-384.json: expected the rows of a benchmark"):
        report.read_part(tmp_path / "frame-esat-384.json")


@pytest.mark.parametrize(
    ("arguments", "words"), [(["--only", "table3"], "--only must be of attention, frame"), (["--compare", "/nowhere"], "no such folder")]
)
def test_bad_calls(tmp_path, arguments, words, capsys):
    assert _run("--out", tmp_path, *arguments) == 2
    assert words in capsys.readouterr().err


def test_the_command_passes_arguments_and_exit_codes_on(capfd):
    with pytest.raises(SystemExit) as ended:
        main(["bench", "table3"])
    assert ended.value.code == 2
    assert "expected one of attention, frame" in capfd.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["bench", "parity", "/nonexistent.npz"])
    assert ended.value.code == 2
    assert "/nonexistent.npz" in capfd.readouterr().err
