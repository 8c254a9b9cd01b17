"""`esat info` and `esat doctor`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import esat_kernels
from engine.cli import environment, machine
from engine.cli.environment import Finding, check_environment
from engine.errors import ConfigError
from engine.runners.choice import make_runner
from engine.weights import DEFAULT_MODEL, find_weights
from engine.weights.io import file_hash
from engine.weights.shipped import shipped_path
from esat_kernels import _native, _tuned
from tests.cli.run import esat
from tests.conftest import REPOSITORY
from tests.require import require


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert esat("--version") == 0
    name, version = capsys.readouterr().out.split(maxsplit=1)
    assert name == "esat"
    assert version.strip() == (machine.package_version("esat-engine") or "from a source tree that is not installed")


def test_info_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert esat("info", "--json") == 0
    about = json.loads(capsys.readouterr().out)
    assert about["backends"] == esat_kernels.backends()
    assert about["backends"]["reference"] is None
    assert about["cuda_library"] == esat_kernels.cuda_library()
    assert about["versions"]["torch"]
    assert about["cpu"]["threads"] >= 1
    assert about["devices"]["cpu"] is None
    assert about["cpu_engine"].keys() == {"fp32", "bf16", "fp16", "int8", "fp8"}
    assert about["cpu_engine"]["fp16"]
    assert "int8" in about["cpu_engine"]["fp8"]
    assert set(about["fp8"]) == set(about["devices"]) - {"cpu", "cuda"}  # CUDA devices alone


def test_info_shows_what_was_measured_on_which_device(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = {"linear": {"a": [1], "b": [2]}, "linear_fp8": {"a": [1]}, "launches": {"dependent": True, "sources": "those of a year ago"}}
    (tmp_path / "nvidia-h100.json").write_text(json.dumps(table))
    monkeypatch.setattr(_tuned, "FOLDER", tmp_path)
    assert esat("info") == 0
    shown = capsys.readouterr().out
    assert "measured on nvidia-h100: tiles of 2 products, 1 products in fp8 and 0 sizes of attention; dependent launches off" in shown
    assert "measured with other sources or compilers (those of a year ago" in shown
    assert esat("info", "--json") == 0
    assert set(json.loads(capsys.readouterr().out)["tuned"]) == {"nvidia-h100"}


@pytest.mark.parametrize("devices", [0, 1])
def test_info_says_once_for_each_device_whether_it_has_fp8(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, devices: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Fake 1")
    monkeypatch.setattr(esat_kernels, "backends", lambda: {"triton": None, "cpu": None})
    monkeypatch.setattr(esat_kernels, "fp8_unsupported", lambda device: "needs compute capability 8.9")
    assert esat("info") == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    said = [line for line in lines if line and (line[0] == "fp8" or "8.9" in line[-1])]
    assert [line[0] for line in said] == ["fp8", *["fp8", "cuda:0"] * devices]
    assert "int8" in said[0][1]  # of the CPU engine


def test_info_shows_the_sets_of_each_operation(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    require("cpu", _native.unavailable())
    for name in ("portable", _native.cpu_sets()[-1]):
        monkeypatch.setenv("ESAT_CPU", name)
        assert esat("info") == 0
        lines = capsys.readouterr().out.splitlines()
        for row in _native.kernel_table():
            line = next(line for line in lines if line[2:].startswith(f"{row.operation} "))
            marked = " ".join(f"*{kernel}" if kernel == row.chosen else kernel for kernel in row.sets)
            assert line.endswith(f" {marked}" if row.chosen else f" {marked}  none here: PyTorch")


def test_a_set_that_the_machine_lacks_is_bad_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    require("cpu", _native.unavailable())
    monkeypatch.setenv("ESAT_CPU", "sse9")
    assert esat("info") == 2
    assert "ESAT_CPU must be a set of this machine (portable" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="got 'sse9'"):
        make_runner(find_weights(DEFAULT_MODEL), "cpu")


def test_a_process_of_ours_has_one_openmp_runtime() -> None:
    """In a process of its own: other tests load packages that bring runtimes of their own."""
    command = [sys.executable, "-m", "engine", "info", "--json"]
    about = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY).stdout)
    assert len(about["openmp"]) <= 1


def test_info_gives_the_reason_for_each_backend_that_cannot_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(esat_kernels, "backends", lambda: {"cpu": "no native library: g++ [not] found", "reference": None})
    assert esat("info") == 0
    printed = capsys.readouterr().out
    assert "no: no native library: g++ [not] found" in printed
    assert "can run" in printed


def test_info_names_the_shipped_weights(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.weights.shipped._FOLDER", tmp_path)
    assert machine.shipped_weights() == {}
    path = shipped_path("esat-s-256")
    path.write_bytes(tiny.read_bytes())
    about = machine.shipped_weights()
    assert about["esat-s-256"]["sha256"] == file_hash(path)


def test_environment_is_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    findings = {finding.check: finding for finding in check_environment()}
    assert set(findings) == {"python", "pytorch", "native library", "openmp", "processors", "video", "opencv", "current folder", "weights"}
    assert findings["video"].level == "ok"
    assert findings["current folder"].level == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_check_that_breaks_is_a_finding_and_gives_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Finding:
        raise OSError("libx264 [missing]")

    monkeypatch.setattr(environment, "_video", broken)
    assert esat("doctor") == 2
    assert "OSError: libx264 [missing]" in capsys.readouterr().out


def test_doctor_passes_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert esat("doctor") == 0
    assert "frames written and read" in capsys.readouterr().out


def test_two_pools_of_threads_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "openmp_runtimes", lambda: {"/a/libgomp.so.1", "/b/libomp.so"})
    finding = environment._openmp()
    assert finding.level == "warn"
    assert "libgomp.so.1, libomp.so" in finding.message
