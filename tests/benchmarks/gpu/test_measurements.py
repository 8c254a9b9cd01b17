"""What the GPU command measures and checks, on the CPU with small networks and the reference kernels: all but its clock."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

import esat_kernels
from benchmarks.gpu import attention, frame, golden, inputs, pipeline, plots, products, targets
from conformance import golden as golden_files
from conformance.findings import Target
from engine.runners.gpu.frame import FramePlan
from engine.runners.gpu.network import GpuNetwork, Kernels
from engine.runners.gpu.products import Product, Stream
from engine.runners.gpu.runner import GpuRunner
from engine.runners.gpu.streams import HostStreams
from tests.conftest import REPOSITORY

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["small_plain.npz", "small_fda.npz", "small_fda_paper.npz"])
def test_the_engine_agrees_with_golden_files(name):
    path = REPOSITORY / "tests" / "golden" / name
    assert path in golden.files()
    row = golden.check_engine(path, golden_files.load(path), Target("reference", "fp32", "cpu"))
    assert row["ok"]
    assert row["removed_equal"]
    assert row["max_abs_error"] < 1e-5


def test_a_wrong_engine_disagrees_with_golden_files():
    path = REPOSITORY / "tests" / "golden" / "small_fda.npz"
    content = golden_files.load(path)
    content["spec"] = np.array(json.dumps(json.loads(str(content["spec"])) | {"fda": [0.0, 0.0, 0.02]}))
    assert not golden.check_engine(path, content, Target("reference", "fp32", "cpu"))["ok"]


def test_a_golden_file_that_cannot_be_checked_says_why(tmp_path):
    [row] = golden.rows(tmp_path / "missing.npz", Target("triton", "bf16", "cuda"))
    assert not row["ok"]
    assert "no such file" in row["error"]


def test_the_pipeline_is_checked_and_timed():
    """Every arrangement runs, and a loop whose boxes differ gets no speed."""
    arguments = (inputs.small_weights(), "reference", "cpu", "fp32", 4, 1, 2)
    rows = pipeline.measure(*arguments)
    assert {(row["targets"], row["frames"]) for row in rows} == {
        *((name, "pinned") for name in pipeline.ARRANGEMENTS),
        ("1 target", "NumPy"),
        ("1 target", "NumPy, Tracker.update"),
    }
    assert all(row["ok"] and row["fps"] > 0 and row["box_error_px"] <= 0.01 for row in rows)
    [row] = pipeline.measure(*arguments, allowed_px=-1.0)
    assert not row["ok"]
    assert "fps" not in row


def test_a_frames_checks_and_rows():
    """An engine that is too far off gets no time."""
    options = {"device": CPU, "clock": lambda call: call() and {"median_ms": 2.0, "p99_ms": 3.0}, "repetitions": 3}
    weights = inputs.small_weights()
    rows = frame.engine_rows(weights, "reference", (1, 2), accurate=True, **options)
    assert [(row["mode"], row["scope"], row["batch"]) for row in rows] == [
        *(("eager", "network", 1), ("graph", "network", 1), ("graph", "tracker", 1)),
        *(("graph", "network", 2), ("graph", "tracker", 2)),
    ]
    assert all(row["ok"] and row["fps"] == 500 * row["batch"] for row in rows)
    assert not any("fps" in row for row in frame.engine_rows(weights, "reference", (1,), accurate=False, **options))
    maps = frame.NetworkFrame(GpuNetwork(weights, CPU, torch.float32, Kernels.of("reference")), *inputs.images(weights.config, 1, CPU))
    assert frame.repetitions_equal(maps.eager, 3)
    shaky = iter([maps.eager()] * 3 + [maps.eager()._replace(maps=maps.eager().maps._replace(score=torch.zeros(1, 1, 6, 6)))])
    assert not frame.repetitions_equal(lambda: next(shaky), 3)


def test_the_engine_is_compared_with_the_model_at_every_number_of_tokens():
    """Elimination as in a frame; what is wrong behind it, or in it, is found."""
    weights = inputs.small_weights()
    assert weights.config.search_tokens_per_layer() == [26, 19]
    found = frame.model_errors(weights, "reference", CPU)
    assert found["ok"], found
    assert 0 < found["engine"] <= 2 * found["eager"]
    assert found["tokens"] == [19, 35, 45]


def test_a_wrong_attention_or_elimination_is_found(monkeypatch):
    weights = inputs.small_weights()
    attend = GpuNetwork._attend
    with monkeypatch.context() as patch:
        patch.setattr(GpuNetwork, "_attend", lambda self, *arguments: [attend(self, *arguments)[0] * 1.1, attend(self, *arguments)[1]])
        assert not frame.model_errors(weights, "reference", CPU)["ok"]
    eliminate = esat_kernels.eliminate_tokens
    monkeypatch.setattr(esat_kernels, "eliminate_tokens", lambda scores, *rest, **options: eliminate(-scores, *rest, **options))
    found = frame.model_errors(weights, "reference", CPU)
    assert found["removed"]["engine"] < 0.9
    assert not found["ok"]


def test_every_product_of_a_frame_is_measured(monkeypatch):
    """The shapes that `products` times are those that a frame runs."""
    weights = inputs.small_weights()
    seen = set()
    product = Product.__call__

    def spy(self, x, residual=None, out=None):
        outputs, width = self._weight.shape
        tokens = x.tokens if isinstance(x, Stream) else x
        seen.add((tokens.numel() // width, outputs, width, self._norm, self._activation == "gelu", residual is not None))
        return product(self, x, residual, out)

    network = GpuNetwork(weights, torch.device("cpu"), torch.float32, Kernels.of("reference"))
    plan = FramePlan(network, HostStreams(), [2])
    monkeypatch.setattr(Product, "__call__", spy)
    plan.step(0, True)
    counts, dimensions = products.shapes(weights.config, 2), products.dimensions(weights.config)
    assert {(rows, *dimensions[name]) for name, all_rows in counts.items() for rows in all_rows} == seen


@pytest.fixture
def frames_on_the_cpu(monkeypatch):
    """The part `frame` with a small network, the reference kernels and a clock of its own; there is no profiler."""
    errors, rows = frame.model_errors, frame.engine_rows
    clock = {"clock": lambda call: call() and {"median_ms": 2.0, "p99_ms": 3.0}, "repetitions": 2}
    small = inputs.small_weights()
    named = lambda name: dataclasses.replace(small, config=small.config.replace(name=name))  # noqa: E731
    monkeypatch.setattr(frame, "model_weights", named)
    monkeypatch.setattr(frame, "model_errors", lambda weights, backend: errors(weights, "reference", CPU))
    monkeypatch.setattr(frame, "engine_rows", lambda weights, backend, *rest: rows(weights, "reference", *rest, device=CPU, **clock))
    monkeypatch.setattr(frame, "peer_rows", lambda weights, compiled: 1 / 0)
    monkeypatch.setattr(frame, "stages", lambda weights, backend: {"head": 3.0} if backend == "cuda" else 1 / 0)
    monkeypatch.setattr(frame, "REST", {"esat-384": (1, 2), "esat-s-256": (1,)})
    monkeypatch.setattr(esat_kernels, "backends", lambda: {"cuda": None, "triton": None})


@pytest.mark.usefixtures("frames_on_the_cpu")
def test_the_frame_s_report(tmp_path, capsys):
    output = tmp_path / "gpu_frame.json"
    assert frame.main([str(output)]) == 0
    found = json.loads(output.read_text())
    assert found["ok"]
    assert len(found["rows"]) == 2 * 3
    assert found["stages_us"] == {"cuda": {"head": 3.0}}
    assert found["score_map_errors"]["esat-384"]["triton"]["ok"]
    shown = capsys.readouterr().out
    assert "no stages of triton: division by zero" in shown
    assert "cuda head: 3.0 us" in shown


@pytest.mark.usefixtures("frames_on_the_cpu")
def test_the_other_frames_report_and_a_peer_that_fails(tmp_path):
    output = tmp_path / "gpu_frames.json"
    assert frame.main(["--rest", str(output)]) == 1
    rows = json.loads(output.read_text())["rows"]
    assert [row["model"] for row in rows if not row["ok"]] == ["esat-384", "esat-s-256"]
    assert all("ZeroDivisionError" in row["why"] for row in rows if not row["ok"])
    assert {row["batch"] for row in rows if row["model"] == "esat-384"} == {1, 2}


def test_targets_are_timed_together_and_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "GpuRunner", lambda weights, *_: GpuRunner(inputs.small_weights(), "cpu", "fp32", "reference"))
    monkeypatch.setattr(targets, "model_weights", lambda name: None)
    monkeypatch.setattr(targets, "COUNTS", (1, 2))
    monkeypatch.setattr(targets, "SECONDS", 0.01)
    monkeypatch.setattr(esat_kernels, "backends", lambda: {"cuda": None, "triton": None})
    assert targets.main(tmp_path / "gpu_targets.json") == 0
    rows = json.loads((tmp_path / "gpu_targets.json").read_text())["rows"]
    assert [row["targets"] for row in rows] == [1, 2]
    assert all(row["max_difference_px"] < 0.01 for row in rows)


def test_plots_show_what_was_measured(tmp_path):
    assert plots.main(tmp_path / "gpu_plots.json") == 1
    frame = {"impl": "ours", "model": "esat-384", "backend": "cuda", "mode": "graph", "scope": "network"}
    content = {
        "attention": {"rows": [{"impl": "ours", "backend": "cuda", "tokens": n, "median_us": n / 100} for n in (343, 720)]},
        "frame": {
            "rows": [{**frame, "batch": n, "median_ms": n / 2} for n in (1, 4)],
            "stages_us": {"cuda": {"head": 3.0, "kernel: x": 1.0}},
        },
        "pipeline": {"rows": [{"model": "m", "backend": "cuda", "targets": "1 target", "frames": "pinned", "fps": 5.0}]},
    }
    for part, found in content.items():
        (tmp_path / f"gpu_{part}.json").write_text(json.dumps(found))
    assert plots.main(tmp_path / "gpu_plots.json") == 0
    assert json.loads((tmp_path / "gpu_plots.json").read_text())["files"] == ["gpu_attention.png", "gpu_frame.png", "gpu_pipeline.png"]
    assert all((tmp_path / f"gpu_{name}.png").stat().st_size > 5000 for name in content)


def test_a_frame_is_drawn_over_all_batches(tmp_path, monkeypatch):
    row = {"impl": "ours", "model": "esat-384", "backend": "cuda", "mode": "graph", "scope": "network"}
    measured = {"frame": {1: 0.6}, "frames": {1: 0.5, 4: 1.0, 16: 3.0}}
    for part, times in measured.items():
        rows = [{**row, "batch": batch, "median_ms": median} for batch, median in times.items()]
        (tmp_path / f"gpu_{part}.json").write_text(json.dumps({"rows": rows, "stages_us": {}}))
    drawn = []
    monkeypatch.setattr(plots, "_lines", lambda axis, series: drawn.append(series))
    plots.frame(tmp_path)
    assert drawn == [{"ours cuda, network": [(1, 0.5), (4, 1.0), (16, 3.0)]}]


def test_attention_is_checked_in_the_shape_that_is_measured():
    seen = []

    def eager(q, k, v):
        seen.append((q.shape, q.stride()))
        return attention.eager(q, k, v)

    assert attention.accuracy("eager", eager, 40, "cpu").max_error < 0.05
    assert seen == [((1, 12, 40, 64), (3 * 40 * 768, 64, 3 * 768, 1))]


def test_the_end_of_attention_s_output_is_ours_beside_the_best_plain_one():
    names = (("ours", "cuda", 11.0), ("ours", "cuda:rows=32", 9.0), ("sdpa", "flash", 8.5), ("sdpa", "cudnn", 8.25), ("eager", None, 90.0))
    rows = [{"impl": impl, "backend": backend, "tokens": 720, "median_us": us} for impl, backend, us in names]
    rows.append({"impl": "ours", "backend": "triton", "tokens": 720, "why": "wrong"})
    assert attention.best(720, rows) == "N = 720: cuda 11.00, triton inf, best plain sdpa:cudnn 8.25 us"


def test_an_implementation_that_fails_takes_no_other_with_it():
    rows = []
    wanted = frame.row_of("ours", "small", "reference", "graph", "network", 1)
    frame.attempt(wanted, rows, lambda: 1 / 0)
    frame.attempt(wanted, rows, lambda: [{**wanted, "ok": True}])
    assert [row["ok"] for row in rows] == [False, True]
    assert "ZeroDivisionError" in rows[0]["why"]
    [row] = golden.rows(REPOSITORY / "tests" / "golden" / "small_fda.npz", Target("reference", "fp32", "no such device"))
    assert not row["ok"]
    assert "no such device" in row["error"]
