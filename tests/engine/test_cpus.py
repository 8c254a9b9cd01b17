"""A container's share of the processors."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import cpus
from engine.cli import environment as doctor_env


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/a/b", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2.0),
        ("0::/a/b", {"a/cpu.max": "50000 100000", "a/b/cpu.max": "400000 100000"}, 0.5),
        ("0::/not/seen/inside", {"cpu.max": "300000 100000"}, 3.0),
        (
            "4:cpu,cpuacct:/docker/1\n1:memory:/x",
            {"cpu/docker/1/cpu.cfs_quota_us": "250000", "cpu/docker/1/cpu.cfs_period_us": "100000"},
            2.5,
        ),
        ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("", {}, None),
    ],
)
def test_quota(tmp_path: Path, membership: str, files: dict[str, str], quota: float | None) -> None:
    write(tmp_path / "membership", membership)
    for name, text in files.items():
        write(tmp_path / "groups" / name, text)
    assert cpus.cpu_quota(tmp_path / "groups", tmp_path / "membership") == quota


def test_doctor_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(cpus, "cpu_quota", lambda: 1.5)
    monkeypatch.setattr(cpus, "bound_cpus", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    finding = next(finding for finding in doctor_env.check_environment() if finding.check == "processors")
    assert finding.level == "warn"
    assert "quota allows 1.5" in finding.message
    assert "OMP_NUM_THREADS=2" in finding.message
    assert cpus.cpu_count() == 2


@pytest.mark.parametrize(("workers", "threads", "wanted"), [(1, 64, 4), (2, 64, 2), (2, 1, 1), (8, 64, 1)])
def test_workers_share_the_quota_and_keep_to_the_threads_asked_for(
    monkeypatch: pytest.MonkeyPatch, workers: int, threads: int, wanted: int
) -> None:
    import torch

    from engine.workers import threads_for_each

    monkeypatch.setattr(cpus, "cpu_quota", lambda: 4.0)
    monkeypatch.setattr(cpus, "bound_cpus", lambda: 64)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert threads_for_each(workers) == wanted


def test_the_command_line_starts_no_more_threads_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from engine.cli import app

    monkeypatch.setattr(app, "cpu_count", lambda: 2)
    monkeypatch.setattr(app, "bound_cpus", lambda: 8)
    for given, wanted in ((None, "2"), ("5", "5")):
        if given is None:
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        else:
            monkeypatch.setenv("OMP_NUM_THREADS", given)
        with pytest.raises(SystemExit):
            app.main(["track", "--help"])
        assert os.environ["OMP_NUM_THREADS"] == wanted
