"""Timing in turns, rows as lines, and a benchmark that refuses times to what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import attention, harness
from engine.errors import ConfigError
from esat_kernels import _native, testing
from tests.conftest import REPOSITORY
from tests.require import require


def test_functions_run_in_turns() -> None:
    calls: list[str] = []
    timings = harness.interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 0, warm_up=2, least_rounds=4)
    assert calls == ["a", "a", "b", "b", *"abababab"]
    assert {name: timing.calls for name, timing in timings.items()} == {"a": 4, "b": 4}


def test_summary_is_median_and_99th_percentile() -> None:
    timing = harness.summary([float(i) for i in range(1, 201)])
    assert timing == harness.Timing(100.5, 198.0, 200)
    assert harness.summary([float(i) for i in range(100, 0, -1)]).p99_us == 99.0
    assert harness.summary([float(i) for i in range(1, 51)]).p99_us == 50.0
    assert harness.summary([3.0]) == harness.Timing(3.0, 3.0, 1)


def test_rows_are_json_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"impl": "ours", "ok": True}, {"impl": "flex", "median_us": None}]
    harness.write_rows(rows, str(tmp_path / "sub" / "rows.jsonl"))
    assert [json.loads(line) for line in (tmp_path / "sub" / "rows.jsonl").read_text().splitlines()] == rows
    harness.write_rows(rows, "-")
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows
    with pytest.raises(ConfigError, match="--json"):
        harness.write_rows(rows, str(tmp_path))


def test_machine_names_what_a_figure_depends_on() -> None:
    description = harness.machine()
    assert {"cpu", "isa", "threads", "torch", "python", "commit", "dirty"} <= set(description)
    assert description["threads"] == torch.get_num_threads()


@pytest.mark.parametrize("text", ["", "7,x", "0", "3,-1"])
def test_bad_numbers(text: str) -> None:
    with pytest.raises(ConfigError, match="--tokens must be positive integers"):
        harness.numbers(text, "--tokens")


def test_unknown_choices() -> None:
    with pytest.raises(ConfigError, match="--impls must be of a, b, got c"):
        harness.choices("a,c", ("a", "b"), "--impls")


def test_names_of_what_is_compared_differ() -> None:
    assert harness.distinct(["b", "a"]) == ["b", "a"]
    with pytest.raises(ConfigError, match="expected files of different names, got a, b twice"):
        harness.distinct(["b", "a", "c", "a", "b"])


def _labels() -> dict[str, object]:
    return {"tokens": 33, "batch": 1, "dtype": "fp32", "inputs": "near", "device": "cpu"}


def test_rows_of_the_attention_benchmark() -> None:
    case = testing.make_case("near", 1, 2, 33, 64)
    rows = attention.rows_of(case, _labels(), ["ours", "eager", "sdpa"], 0.0)
    assert [row["impl"] for row in rows] == ["ours", "eager", "sdpa"]
    assert all(row["ok"] and row["median_us"] > 0 and row["p99_us"] >= row["median_us"] for row in rows)
    assert rows[2]["ratio_to_sdpa"] == 1.0
    assert rows[0]["ratio_to_sdpa"] == pytest.approx(rows[0]["median_us"] / rows[2]["median_us"])


def test_a_wrong_or_failing_peer_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    case = testing.make_case("near", 1, 2, 33, 64)
    build = attention.build

    def broken(impl: str, case: testing.Case):
        if impl == "compiled":
            raise RuntimeError("does not compile\nand says much")
        if impl == "eager":
            return lambda: attention.eager(case.q, case.k, case.v, 0.0, case.beta, case.delta, case.scale)
        return build(impl, case)

    monkeypatch.setattr(attention, "build", broken)
    rows = {row["impl"]: row for row in attention.rows_of(case, _labels(), ["ours", "eager", "compiled"], 0.0)}
    assert rows["ours"]["ok"]
    assert not rows["eager"]["ok"]
    assert rows["eager"]["median_us"] is None
    assert "is allowed" in rows["eager"]["reason"]
    assert rows["compiled"]["reason"] == "does not compile"


def test_plot_is_written(tmp_path: Path) -> None:
    case = testing.make_case("near", 1, 1, 17, 64)
    attention.plot(attention.rows_of(case, _labels(), ["ours", "sdpa"], 0.0), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"


def test_the_suite_of_single_kernels_measures_when_asked_to(tmp_path):
    """--benchmark-only skips every test whose use of the fixture it does not see."""
    require("cpu", _native.unavailable())
    results = tmp_path / "speed.json"
    command = [sys.executable, "-m", "pytest", "tests/benchmarks/test_kernel_speed.py", "-k", "343 and float32", "-p", "no:cacheprovider"]
    options = ["--benchmark-only", "--benchmark-max-time=0.1", f"--benchmark-json={results}"]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    subprocess.run([*command, *options], cwd=REPOSITORY, check=True, capture_output=True, env=alone)
    (found,) = json.loads(results.read_text())["benchmarks"]
    assert found["stats"]["rounds"] >= 5
    assert found["stats"]["median"] > 0
