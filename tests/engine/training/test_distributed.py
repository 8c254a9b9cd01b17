"""A run on two CPU processes gives the parameters of a run on one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.errors import ConfigError
from engine.training.checkpoint import CHECKPOINT
from engine.training.distributed import Group, in_first_process, share_threads
from tests.engine.training.test_trainer import trainer

PROGRAM = """
import sys
import torch
from tests.engine.training.test_trainer import trainer

torch.set_num_threads(1)
run = trainer(sys.argv[1], steps=3, batch=4, micro_batch=2)
assert run.group.size == 2
run.run()
torch.save(run.model.state_dict(), f"{sys.argv[1]}/rank{run.group.rank}.pt")
"""


def test_two_processes_equal_one(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(tmp_path / "program.py"),
        str(tmp_path),
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[3]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the program: another order of summation would grow from step to step
    try:
        single = trainer(tmp_path / "single", steps=3, batch=4, micro_batch=2)
        single.run()
    finally:
        torch.set_num_threads(threads)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, value in single.model.named_parameters():
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name], value, atol=1e-5), name
    assert (tmp_path / CHECKPOINT).is_file()
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3


def test_processes_share_the_threads_and_the_first_one_speaks(monkeypatch):
    assert share_threads(2) == 2
    assert in_first_process()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert [share_threads(threads) for threads in (1, 2, 5)] == [1, 1, 2]
    monkeypatch.setenv("RANK", "1")
    assert not in_first_process()


def test_a_batch_is_shared_out_evenly():
    assert [Group(rank, 4).part(16) for rank in (0, 3)] == [slice(0, 4), slice(12, 16)]
    assert Group().part(5) == slice(0, 5)
    with pytest.raises(ConfigError, match="got 10 and 4"):
        Group(0, 4).part(10)
