"""The GPU command where there is no GPU: what it prints, and how its parts end, are recorded and are taken up again."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.gpu import attention, build, frame, golden, inputs, machine, pipeline, plots, products, sanitize, warm
from benchmarks.gpu import tests as gpu_tests
from benchmarks.gpu.children import run_together
from benchmarks.gpu.parts import EXTRA, MINUTES, PARTS, Part
from conformance import golden as golden_files
from conformance.findings import Target
from engine.runners.gpu.frame import FramePlan
from engine.runners.gpu.network import GpuNetwork, Kernels
from engine.runners.gpu.products import Product
from engine.runners.gpu.streams import HostStreams
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


def test_every_part_exists_and_a_call_fits_into_ten_minutes():
    assert 60 * MINUTES < 580
    assert all(part.limit_s < 600 for part in (*PARTS, *EXTRA))
    for part in (*PARTS, *EXTRA):
        assert (REPOSITORY / "benchmarks" / "gpu" / f"{part.module}.py").is_file()


def test_everything_is_imported_without_packages_that_a_bare_machine_lacks():
    """PyTorch's CUDA images have no PyAV and none of the extras; nothing of the evaluation's videos and servers is needed here."""
    modules = [
        f"benchmarks.gpu.{path.stem}" for path in sorted((REPOSITORY / "benchmarks" / "gpu").glob("*.py")) if path.stem != "__init__"
    ]
    tests = [path.removesuffix(".py").replace("/", ".") for path in gpu_tests.FILES]
    missing = ("av", "openvino", "ncnn", "ray", "fastapi", "uvicorn", "websockets", "got10k", "supervision", "playwright")
    code = f"""
import importlib, sys, torch
sys.modules |= dict.fromkeys({missing}, None)
torch.cuda.is_available = lambda: True
for name in {[*modules, *tests, "tests.conftest"]}: importlib.import_module(name)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_an_unknown_part_is_named(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu", "--parts", "build,polish"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert "unknown parts polish: expected some of build, compile, tests" in capsys.readouterr().err


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
    monkeypatch.setattr(machine, "facts", lambda _: {"device": "fake", "commit": None, "sources": "abc"})
    monkeypatch.setattr(command, "_GRACE_S", 0.5)

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


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:  # it has ended meanwhile
        return b""


def test_a_part_that_is_stopped_while_it_writes_or_has_children_does_no_harm(run, tmp_path):
    """The file is half written, and a child in a session of its own holds on."""
    child = "import time; time.sleep(60.125)"
    parts = (
        Fake("writes", "", "", 1, code="open(OUTPUT, 'w').write('{\"ok\": tr'); import time; time.sleep(100)"),
        Fake(
            "starts",
            "",
            "",
            4,
            code=f"from benchmarks.gpu.children import run_together; run_together({{'a': [{sys.executable!r}, '-c', {child!r}]}}, 100)",
        ),
    )
    code, found = run(parts)
    assert code == 1
    assert not any(part["ok"] for part in found.values())
    assert not any(child.encode() in _command_line(path) for path in Path("/proc").glob("[0-9]*"))


def test_what_a_part_prints_is_kept_and_its_end_is_shown(run, tmp_path, capsys):
    run((Fake("talks", "", "", 60, code=f"{WRITES}; print(*range(1000), sep='\\n')"),))
    shown = capsys.readouterr().out.splitlines()
    assert "999" in shown
    assert "500" not in shown
    assert (tmp_path / "gpu_talks.log").read_text().splitlines() == [str(number) for number in range(1000)]


def test_parts_know_their_time_and_what_does_not_fit_is_left_to_the_next_call(run, capsys, monkeypatch):
    monkeypatch.setattr(command, "_LEAST_S", 2.0)
    tells = "from benchmarks.gpu.parts import seconds_left; open(OUTPUT, 'w').write('{\"ok\": true, \"left\": %f}' % seconds_left(999))"
    parts = (Fake("first", "", "", 60, code=tells), Fake("second", "", "", 60, code=f"{WRITES}; import time; time.sleep(3)"))
    code, found = run(parts, "--minutes", "0.2")
    assert code == 0
    assert 0 < found["first"]["left"] < 12
    code, found = run((*parts, Fake("third", "", "", 60, code=WRITES)), "--minutes", "0.08", "--again")
    assert code == 1
    assert "third" not in found
    assert "no time was left for third: the same command goes on there" in capsys.readouterr().out
    code, found = run((*parts, Fake("third", "", "", 60, code=WRITES)))
    assert code == 0
    assert found["third"]["ok"]


def test_a_part_that_leaves_more_than_results_behind_runs_every_time(run, capsys):
    part = Fake("build", "", "", 60, always=True, code=WRITES)
    run((part,))
    run((part,))
    assert "finished by an earlier call" not in capsys.readouterr().out


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
        assert [name for name in archive.getnames() if "/" not in name] == [
            *("gpu_draws.json", "gpu_draws.log", "gpu_draws.png", "gpu_works.json", "gpu_works.log")
        ]


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


def test_commands_run_at_once_and_none_is_left():
    python = [sys.executable, "-c"]
    meet = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch()\nwhile not pathlib.Path(sys.argv[2]).exists(): time.sleep(0.01)"
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder, name)) for name in "ab"]
        ended = run_together(
            {
                "a": [*python, meet, *paths],
                "b": [*python, meet, *reversed(paths)],
                "fails": [*python, "print('why'); raise SystemExit(3)"],
                "hangs": [*python, "import time; print('here', flush=True); time.sleep(100)"],
            },
            5,
        )
    assert {name: one.code for name, one in ended.items()} == {"a": 0, "b": 0, "fails": 3, "hangs": None}
    assert (ended["fails"].output, ended["hangs"].output) == ("why\n", "here\n")


@pytest.fixture
def _sigint_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_sigint_ignored")  # as it is behind `nohup make gpu &`
def test_tests_that_ended_before_time_ran_out_are_reported(tmp_path, monkeypatch):
    path = tmp_path / "test_some.py"
    path.write_text("import time\ndef test_good(): pass\ndef test_bad(): assert 1 == 2\ndef test_hangs(): time.sleep(100)\n")
    monkeypatch.setattr(gpu_tests, "FILES", [str(path)])
    report = tmp_path / "report.xml"
    assert gpu_tests.run(report, 6) is None
    found = gpu_tests.result(None, report)
    assert not found["ok"]
    assert found["interrupted"]
    assert found["tests"] >= 2
    assert "assert 1 == 2" in next(iter(found["failures"].values()))


@pytest.mark.parametrize(
    ("missing", "tool"), [({"cuda": "not built", "triton": None}, "/bin/true"), ({"cuda": None, "triton": None}, None)]
)
def test_the_sanitizer_says_what_it_could_not_run(missing, tool, monkeypatch, tmp_path):
    monkeypatch.setattr("esat_kernels.backends", lambda: missing)
    monkeypatch.setattr(sanitize.shutil, "which", lambda _: tool)
    output = tmp_path / "out.json"
    code = sanitize.main(output)
    found = json.loads(output.read_text())["tools"]
    assert list(found) == [f"{backend} {name}" for backend in sanitize.BACKENDS for name in sanitize.TOOLS]
    if tool is None:
        assert code == 0
        assert all(entry["why"] == "compute-sanitizer is not installed" for entry in found.values())
    else:  # a tool that says nothing has found nothing out
        assert code == 1
        assert found["cuda memcheck"] == {"verdict": "not run", "why": "not built"}
        assert found["frame racecheck"]["verdict"] == "errors"


def test_what_is_compiled_ahead_is_what_frames_and_golden_files_run(monkeypatch, capsys):
    """On the CPU with the reference kernels and a small model."""
    monkeypatch.setattr(frame, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(inputs, "model_weights", lambda _: inputs.small_weights())
    monkeypatch.setattr(Kernels, "of", classmethod(lambda cls, _: cls("reference", "reference")))
    batches = []
    step = FramePlan.step
    monkeypatch.setattr(FramePlan, "step", lambda self, *arguments: batches.append(self.batch) or step(self, *arguments))
    warm.JOBS["frame esat-384"]()
    assert batches == list(warm.BATCHES)
    monkeypatch.setattr(golden, "rows", lambda path, target: [{"file": path.name, "ok": target.dtype}])
    warm.JOBS["golden fp16"]()
    assert "small_fda.npz fp16" in capsys.readouterr().out


def test_attention_is_checked_in_the_shape_that_is_measured(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)

    def eager(q, k, v):
        seen.append((q.shape, q.stride()))
        return attention._eager(q, k, v)

    assert attention._accuracy("eager", eager, 40).max_error < 0.05
    assert seen == [((1, 12, 40, 64), (3 * 40 * 768, 64, 3 * 768, 1))]


def test_an_implementation_that_fails_takes_no_other_with_it(monkeypatch, tmp_path):
    """A frame whose engine raises still has its peers' rows, and a golden file that breaks has its reason."""
    monkeypatch.setattr(frame, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(frame, "model_weights", lambda _: inputs.small_weights())
    monkeypatch.setattr(frame.esat_kernels, "backends", lambda: {"cuda": None, "triton": "not here"})
    monkeypatch.setattr(frame, "model_errors", lambda *_: 1 / 0)
    peer = frame._row("eager", "small", "reference", "graph", "network", 1, ok=True, median_ms=1, fps=1)
    monkeypatch.setattr(frame, "peer_rows", lambda weights: [peer])
    monkeypatch.setattr(frame, "stages", lambda *_: 1 / 0)
    assert frame.main(tmp_path / "out.json") == 1
    found = json.loads((tmp_path / "out.json").read_text())
    assert [row["ok"] for row in found["rows"]] == [False, True] * 3
    assert "ZeroDivisionError" in found["rows"][0]["why"]
    monkeypatch.setattr(golden.parity, "check_file", lambda *_: 1 / 0)
    [row] = golden.rows(REPOSITORY / "tests" / "golden" / "small_fda.npz", Target("triton", "bf16", "cuda"))
    assert "ZeroDivisionError" in row["error"]


def test_the_build_finds_its_tools_beside_python(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "/nowhere")
    path = build.environment()["PATH"]
    assert path.split(os.pathsep) == ["/nowhere", str(Path(sys.executable).parent), "/usr/local/cuda/bin"]
    configure, library, *_ = build.steps(tmp_path, path)
    assert ("Ninja" in configure) == (shutil.which("ninja", path=path) is not None)
    assert library[-1] == "_esat_native"


def test_the_hash_of_the_sources_follows_them_but_not_the_results(tmp_path):
    for name in ("engine/a.py", "benchmarks/results/device/gpu_a.json", "esat_kernels/_native_build.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    first = machine.sources(tmp_path)
    (tmp_path / "benchmarks/results/device/gpu_a.json").write_text("2")
    (tmp_path / "esat_kernels/_native_build.json").write_text("2")
    assert machine.sources(tmp_path) == first
    (tmp_path / "engine/a.py").write_text("2")
    assert machine.sources(tmp_path) != first


def test_a_command_that_hangs_or_is_missing_says_nothing(monkeypatch):
    assert machine._output("no-such-command") is None
    monkeypatch.setattr(machine.subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(subprocess.TimeoutExpired("a", 1)))
    assert machine.clocks() is None


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
