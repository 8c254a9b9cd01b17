"""The report is made from rows alone, and calls a change a change only outside the noise."""

import json

import pytest

from benchmarks.report import compare, markdown, plot, read_rows
from engine.cli.app import main
from engine.errors import ConfigError


def _row(impl, median, p99, **more):
    return {"impl": impl, "tokens": 720, "dtype": "bf16", "device": "cpu", "median_us": median, "p99_us": p99, "ok": True, **more}


def test_changes_outside_the_spread_are_named():
    before = [_row("ours", 100.0, 110.0), _row("sdpa", 200.0, 300.0), _row("flex", 50.0, 51.0)]
    now = [_row("ours", 80.0, 85.0), _row("sdpa", 240.0, 260.0), _row("eager", 9.0, 9.1)]
    found = compare(now, before)
    assert [(row["before"], row["now"], row["changed"]) for row in found] == [(100.0, 80.0, "faster"), (200.0, 240.0, "within the noise")]
    assert found[0]["ratio"] == pytest.approx(0.8)
    assert compare([_row("ours", 130.0, 131.0)], before)[0]["changed"] == "slower"


def test_failed_rows_and_rows_without_times_are_shown_but_not_compared():
    failed = {"impl": "flex", "tokens": 343, "dtype": "bf16", "device": "cpu", "median_us": None, "ok": False}
    assert compare([failed], [failed]) == []
    text = markdown({"attention": [_row("ours", 1.0, 2.0), failed]}, {"cpu": "x"}, {})
    assert "| flex | 343 | bf16 | cpu |  |  | no |" in text


def test_the_plot_and_the_report_take_what_there_is(tmp_path):
    plot(tmp_path / "a.png", {"attention": [_row("ours", 1.0, 2.0)], "table2": [{"abs": True, "ok": True}], "frame": []})
    plot(tmp_path / "b.png", {})
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert "No rows." in markdown({"frame": []}, {"cpu": "x"}, {"frame": []})


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "frame.jsonl").write_text(json.dumps(_row("ours", 1.0, 2.0)) + "\nnonsense\n")
    with pytest.raises(ConfigError, match=r"frame.jsonl, line 2: expected a JSON object, got 'nonsense'"):
        read_rows(tmp_path / "frame.jsonl")


def test_the_command_passes_arguments_and_exit_codes_on(capfd):
    with pytest.raises(SystemExit) as ended:
        main(["bench", "table3"])
    assert ended.value.code == 2
    assert "expected one of attention, frame" in capfd.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["bench", "parity", "/nonexistent.npz"])
    assert ended.value.code == 2
    assert "/nonexistent.npz" in capfd.readouterr().err
