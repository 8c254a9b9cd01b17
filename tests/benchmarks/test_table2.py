"""Table 2 against the paper, and the ways of counting against each other."""

from __future__ import annotations

import json

import pytest
import torch

import esat_kernels.attention.library  # noqa: F401  registers the operator
from benchmarks import macs, table2, table2_report
from engine import build_model, preset
from engine.cli.exits import run_function
from tests.networks import TINY


def test_all_rows_equal_the_paper(capsys):
    with pytest.raises(SystemExit) as caught:
        run_function(table2.main, ["--json", "-"])
    assert not caught.value.code
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["abs"], row["pn"], row["fda"]) for row in rows] == [
        (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1),
    ]  # fmt: skip
    printed = [(92.1, 48.4), (99.0, 50.9), (99.0, 50.9), (92.1, 48.4), (99.0, 50.9), (94.8, 50.3), (94.8, 50.3), (94.8, 50.3)]
    assert [(row["params_m"], row["macs_g"]) for row in rows] == printed
    assert all(row["ok"] for row in rows)
    assert {row["macs_all_g"] for row in rows[::3]} == {54.09, 56.03} | {54.09}
    assert all(row["macs_engine_g"] < 51 for row in rows)


def test_the_thop_convention_to_the_last_unit():
    counts = table2.count(False, False)
    assert (counts.thop_macs, counts.thop_parameters) == (48_358_029_312, 92_120_709)  # what thop 0.1.1 prints for this network


@pytest.mark.parametrize("elimination", [(), (1, 2), (0, 3)])
def test_closed_form_and_counter_agree(elimination):
    config = TINY.replace(dim=48, heads=3, depth=4, template_size=48, search_size=96, head_channels=16, elimination_layers=elimination)
    with torch.device("meta"):
        network = build_model(config, "reference").eval()
        images = [torch.empty(1, 3, size, size) for size in (48, 96)]
    assert macs.count_products(lambda: network(*images)) == macs.closed_form(config)
    assert macs.engine_count(config) < macs.closed_form(config)


def test_elimination_saves_what_the_notes_say():
    assert round(macs.closed_form(preset("esat-384"), elimination=False) / 1e9, 1) == 74.9
    assert round(macs.closed_form(preset("esat-384")) / 1e9, 2) == 54.09


def test_the_fused_operator_counts_like_its_reference():
    q = torch.empty(2, 3, 50, 16, device="meta")
    fused = macs.count_products(lambda: torch.ops.esat.fda_attention(q, q, q, 0.1, 0.1, 0.25, 0.25, 10, -1, "reference"))
    eager = macs.count_products(lambda: (q @ q.transpose(-1, -2)) @ q)
    assert fused == eager == 2 * 3 * 2 * 50 * 50 * 16


def test_measurements_are_kept_and_shown(tmp_path):
    entries = [
        {"fda": False, "position": True, "protocol": "public", "dtype": "fp32", "fps": 1.5, "frames": 3, "p99_ms": 700.0},
        {"fda": True, "position": False, "protocol": "engine", "dtype": "bf16", "fps": 9.0, "frames": 30, "p99_ms": 120.0},
    ]
    table2.keep(entries, tmp_path / "machine")
    entries[1]["fps"] = 10.0
    table2.keep(entries, tmp_path / "machine")
    assert table2.stored_fps(table2.VARIANTS[1], tmp_path) == {"machine": {"public fp32": 1.5}}
    assert table2.stored_fps(table2.VARIANTS[0], tmp_path) == {}
    assert table2.stored_fps(table2.VARIANTS[7], tmp_path) == {"machine": {"engine bf16": 10.0}}
    rows = [table2.count_row(variant, table2.stored_fps(variant, tmp_path)) for variant in table2.VARIANTS]
    head, cells = table2_report.table(rows, "machine")
    assert head[-3:] == ["engine bf16", "public fp32", "ok"]
    assert [row[-3:-1] for row in cells] == [["", ""], ["", "1.5"], ["", "1.5"], ["10.0", ""], ["", "1.5"], *[["10.0", ""]] * 3]
    assert "| x | x | x | 94.8 | 94.8 | 50.3 | 50.3 |" in table2_report.markdown(rows, "machine")
    table2_report.plot(rows, "machine", tmp_path / "a.png")
    table2_report.plot(rows, "another", tmp_path / "b.png")
    assert (tmp_path / "b.png").stat().st_size > 1000


def test_a_measurement_keeps_its_machine(tmp_path, monkeypatch):
    store, entry = tmp_path / "machine", {"fda": True, "position": False, "fps": 2.0, "frames": 3, "p99_ms": 600.0}
    for commit, protocol, dtype in (
        ("old", "honest", "fp32"),
        ("old", "engine", "fp32"),
        ("new", "engine", "fp32"),
        ("new", "engine", "bf16"),
    ):
        monkeypatch.setattr(table2, "machine", lambda commit=commit: {"cpu": "one", "gpu": None, "commit": commit})
        table2.keep([{**entry, "protocol": protocol, "dtype": dtype}], store)
    kept = table2.stored(store)
    assert [(row["protocol"], row["dtype"], row["machine"]["commit"]) for row in kept] == [
        ("honest", "fp32", "old"),
        ("engine", "fp32", "new"),
        ("engine", "bf16", "new"),
    ]
    rows = [table2.count_row(variant, table2.stored_fps(variant, tmp_path)) for variant in table2.VARIANTS]
    text = table2_report.markdown(rows, "machine", kept)
    assert "GPU. honest fp32 measured on cpu one, commit old. engine bf16, engine fp32 measured on cpu one, commit new." in text
    assert "GPU. Measured on cpu one, commit old.\n" in table2_report.markdown(rows, "machine", kept[:1])
    assert table2.stored(tmp_path / "nowhere") == []


def test_measuring_several_dtypes_in_one_call(tmp_path, monkeypatch, capsys):
    measure = table2.measure
    with monkeypatch.context() as patch:
        patch.setattr(table2, "preset", lambda name: TINY)
        entries = [entry for dtype in ("fp32", "bf16") for entry in measure("cpu", dtype, ["honest"], 0.01)]
    monkeypatch.setattr(table2, "measure", lambda device, dtype, *rest: [entry for entry in entries if entry["dtype"] == dtype])
    store = tmp_path / "machine"
    with pytest.raises(SystemExit) as caught:
        run_function(table2.main, ["--measure", "cpu", "--protocols", "honest", "--store", str(store)])
    assert not caught.value.code
    assert sorted(path.name for path in store.iterdir()) == ["table2.json", "table2.md", "table2.png"]
    assert set(table2.stored_fps(table2.VARIANTS[0], tmp_path)["machine"]) == {"honest fp32", "honest bf16"}


def test_every_protocol_runs_on_a_small_network(monkeypatch):
    monkeypatch.setattr(table2, "preset", lambda name: TINY)
    rows = list(table2.measure("cpu", "fp32", list(table2.PROTOCOLS), 0.01))
    assert [(row["fda"], row["position"], row["protocol"]) for row in rows] == [
        (fda, position, protocol)
        for fda in (False, True)
        for position, protocol in ((False, "public"), (True, "public"), (False, "honest"), (False, "engine"))
    ]
    assert all(row["fps"] > 0 for row in rows)


def test_an_interrupted_measurement_keeps_what_it_has(tmp_path, monkeypatch):
    def measure(*arguments):
        yield {"fda": True, "position": False, "protocol": "honest", "dtype": "fp32", "fps": 2.0, "frames": 3, "p99_ms": 600.0}
        raise KeyboardInterrupt

    monkeypatch.setattr(table2, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        table2.main(measure_on="cpu", dtype="fp32", protocols="honest", store=tmp_path / "machine")
    assert table2.stored_fps(table2.VARIANTS[3], tmp_path) == {"machine": {"honest fp32": 2.0}}


@pytest.mark.parametrize(
    "arguments", [["--measure", "cpu", "--protocols", "fast"], ["--measure", "cpu", "--dtype", "int4"], ["--measure", "tpu"]]
)
def test_bad_calls(arguments):
    with pytest.raises(SystemExit) as caught:
        run_function(table2.main, arguments)
    assert caught.value.code == 2
