"""The GPU command where there is no GPU: what it prints, and how its parts end, are recorded and are taken up again."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch

from benchmarks import golden as golden_files
from benchmarks.golden_findings import Target
from benchmarks.gpu import frame, golden, inputs, machine, pipeline, plots, products, sanitize
from benchmarks.gpu.parts import EXTRA, PARTS, Part
from engine.gpu.frame import FramePlan
from engine.gpu.network import GpuNetwork, Kernels
from engine.gpu.products import Product
from engine.gpu.streams import HostStreams
from tests.conftest import REPOSITORY

command = importlib.import_module("benchmarks.gpu.__main__")


def test_without_a_gpu_every_part_says_what_it_would_do():
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "nothing is run" in done.stdout
    for part in PARTS:
        assert f"{part.name}: {part.purpose}" in done.stdout
        assert f"-m benchmarks.gpu.{part.module}" in done.stdout
    for part in EXTRA:
        assert f"{part.name} ({part.purpose})" in done.stdout


def test_all_parts_fit_into_ten_minutes_and_exist():
    assert sum(part.limit_s for part in PARTS) < 600
    assert all(part.limit_s < 600 for part in EXTRA)
    for part in (*PARTS, *EXTRA):
        assert (REPOSITORY / "benchmarks" / "gpu" / f"{part.module}.py").is_file()


def test_an_unknown_part_is_named(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu", "--parts", "build,polish"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert "unknown parts polish: expected some of build, tests" in capsys.readouterr().err


@dataclasses.dataclass(frozen=True)
class Fake(Part):
    """A part that runs a line of Python with OUTPUT as the path of its file."""

    code: str = ""

    def command(self, output):
        return [sys.executable, "-c", f"OUTPUT = {str(output)!r}\n{self.code}"]


WRITES = "open(OUTPUT, 'w').write('{\"ok\": true, \"value\": 7}')"


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Calls the command with these parts, as if there were a GPU; gives the exit code and what the files say."""
    monkeypatch.setattr(machine, "no_gpu", lambda: None)
    monkeypatch.setattr(machine, "facts", lambda _: {"device": "fake", "commit": "abc"})

    def call(parts, *arguments):
        monkeypatch.setattr(command, "PARTS", parts)
        monkeypatch.setattr(sys, "argv", ["gpu", "--output", str(tmp_path), *arguments])
        code = command.main()
        return code, {path.stem.removeprefix("gpu_"): json.loads(path.read_text()) for path in tmp_path.glob("*.json")}

    return call


def test_a_part_that_crashes_or_hangs_stops_no_other(run):
    parts = (
        Fake("crashes", "", "", 60, code="import os; os.abort()"),
        Fake("hangs", "", "", 1, code="import time; time.sleep(100)"),
        Fake("lies", "", "", 60, code=f"{WRITES}; raise SystemExit(3)"),
        Fake("works", "", "", 60, code=WRITES),
    )
    code, found = run(parts)
    assert code == 1
    assert {name: part["ok"] for name, part in found.items()} == {"crashes": False, "hangs": False, "lies": False, "works": True}
    assert found["hangs"]["ended"] == "stopped after 1 s"
    assert found["works"]["value"] == 7
    assert found["works"]["device"] == "fake"


def test_a_second_call_goes_on_where_the_first_stopped(run, capsys):
    works, breaks = Fake("works", "", "", 60, code=WRITES), Fake("breaks", "", "", 60, code="raise SystemExit(1)")
    assert run((works, breaks))[0] == 1
    capsys.readouterr()
    mended = Fake("breaks", "", "", 60, code=WRITES)
    assert run((works, mended))[0] == 0
    assert "works: finished by an earlier call" in capsys.readouterr().out
    run((works, mended), "--again")
    assert "finished by an earlier call" not in capsys.readouterr().out


def test_all_results_fit_into_one_file(run, tmp_path):
    packed = tmp_path.parent / f"{tmp_path.name}.tar"
    run(
        (Fake("works", "", "", 60, code=WRITES), Fake("draws", "", "", 60, code=f"{WRITES}; open(OUTPUT[:-4] + 'png', 'w')")),
        "--tar",
        str(packed),
    )
    with tarfile.open(packed) as archive:
        assert [name for name in archive.getnames() if "/" not in name] == ["gpu_draws.json", "gpu_draws.png", "gpu_works.json"]


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


def test_the_pipeline_is_checked_and_timed(monkeypatch):
    """On the CPU with a small network: every arrangement runs, and a loop whose boxes differ gets no speed."""
    monkeypatch.setattr(pipeline, "WARM_UP", 1)
    monkeypatch.setattr(pipeline, "DISTINCT", 2)
    rows = pipeline.measure(inputs.small_weights(), "reference", "cpu", "fp32", count=4)
    assert {(row["targets"], row["frames"]) for row in rows} == {
        *((name, "pinned") for name in pipeline.ARRANGEMENTS),
        ("1 target", "NumPy"),
        ("1 target", "NumPy, Tracker.update"),
    }
    assert all(row["ok"] and row["fps"] > 0 and row["box_error_px"] <= 0.01 for row in rows)
    monkeypatch.setattr(pipeline, "loop_error", lambda *_: 0.5)
    [row] = pipeline.measure(inputs.small_weights(), "reference", "cpu", "fp32", count=4)
    assert not row["ok"]
    assert "fps" not in row


def test_a_frames_checks_and_rows(monkeypatch):
    """On the CPU with the reference kernels: what the GPU does but for its clock, and an engine that is too far off gets no time."""
    monkeypatch.setattr(frame, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(frame, "REPETITIONS", 3)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(frame, "_times", lambda call: call() and {"median_ms": 2.0, "p99_ms": 3.0})
    weights = inputs.small_weights()
    errors = frame.model_errors(weights, ["reference"])
    assert 0 < errors["reference"] <= 2 * errors["eager"]
    rows = frame.engine_rows(weights, "reference", (1, 2), accurate=True)
    assert [(row["mode"], row["scope"], row["batch"]) for row in rows] == [
        *(("eager", "network", 1), ("graph", "network", 1), ("graph", "tracker", 1)),
        *(("graph", "network", 2), ("graph", "tracker", 2)),
    ]
    assert all(row["ok"] and row["fps"] == 500 * row["batch"] for row in rows)
    assert not any("fps" in row for row in frame.engine_rows(weights, "reference", (1,), accurate=False))
    maps = frame.NetworkFrame(
        GpuNetwork(weights, frame.DEVICE, torch.float32, Kernels.of("reference")), *inputs.images(weights.config, 1, frame.DEVICE)
    )
    assert frame.repetitions_equal(maps.eager, 3)
    shaky = iter([maps.eager()] * 3 + [maps.eager()._replace(maps=maps.eager().maps._replace(score=torch.zeros(1, 1, 6, 6)))])
    assert not frame.repetitions_equal(lambda: next(shaky), 3)


def test_every_product_of_a_frame_is_measured(monkeypatch):
    """The shapes that `products` times are those that a frame runs."""
    weights = inputs.small_weights()
    seen = set()
    product = Product.__call__

    def spy(self, x, residual=None):
        outputs, width = self._weight.shape
        seen.add((x.numel() // width, outputs, width, self._norm, self._gelu, residual is not None))
        return product(self, x, residual)

    network = GpuNetwork(weights, torch.device("cpu"), torch.float32, Kernels.of("reference"))
    plan = FramePlan(network, HostStreams(), [2])
    monkeypatch.setattr(Product, "__call__", spy)
    plan.step(0, True)
    counts, dimensions = products.shapes(weights.config, 2), products.dimensions(weights.config)
    assert {(rows, *dimensions[name]) for name, all_rows in counts.items() for rows in all_rows} == seen


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


@pytest.mark.parametrize(
    ("code", "text", "verdict"),
    [
        (0, "========= ERROR SUMMARY: 0 errors", "clean"),
        (0, "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", "clean"),
        (9, "========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)", "errors"),
        (9, "========= ERROR SUMMARY: 10 errors", "errors"),
        (1, "Traceback (most recent call last)", "errors"),
        (1, "========= Error: Device not supported. Please refer to the documentation", "refused by this machine"),
    ],
)
def test_what_the_sanitizer_says(code, text, verdict):
    assert sanitize._verdict(code, text) == verdict


def test_the_commit_tells_local_changes(tmp_path):
    assert machine.commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=A", "-c", "user.email=a@example.org"]
    (tmp_path / "a").write_text("1")
    for arguments in (["init", "-q"], ["add", "a"], ["commit", "-qm", "a"]):
        subprocess.run([*git, *arguments], check=True)
    clean = machine.commit(tmp_path)
    assert clean is not None
    assert len(clean) == 40
    (tmp_path / "a").write_text("2")
    assert machine.commit(tmp_path) == f"{clean}-dirty"
