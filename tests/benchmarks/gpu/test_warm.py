"""Compiling ahead: each launch of a frame is in one process's share, nothing is launched, and what reads fresh memory stays valid."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from benchmarks.gpu import frame, inputs, warm
from engine.runners.gpu.network import GpuNetwork, Kernels
from esat_kernels import _triton
from tests.require import require


@pytest.fixture
def compiled(monkeypatch):
    """A frame of a small network on the CPU, by a Triton that only writes down what it is to compile."""
    require("triton", None if importlib.util.find_spec("triton") else "Triton is not installed")
    from triton.runtime.jit import JITFunction

    calls, launchers = [], []

    class Compiled:
        @property
        def run(self):
            launchers.append(self)

    def run(self, *arguments, grid, warmup, **options):
        assert warmup, "launched"
        calls.append(self.fn.__name__)
        return Compiled()

    monkeypatch.setattr(JITFunction, "run", run)
    monkeypatch.setattr(_triton, "unsupported", lambda *_, **__: None)

    def frames(share):
        calls.clear()
        launchers.clear()
        with warm.compiling(share) as found:
            network = GpuNetwork(inputs.small_weights(), torch.device("cpu"), torch.bfloat16, Kernels.of("triton"))
            result = frame.WholeFrame(network, 2).eager()
        assert result.record.shape[0] == 2
        assert len(launchers) == len(calls)
        return list(calls), found

    return frames


def test_every_kernel_of_a_frame_is_compiled_once(compiled):
    calls, found = compiled(lambda name: True)
    assert len(calls) == len(found) == len(set(found))
    expected = {"crop_kernel", "product_kernel", "convolution_kernel", "forward_kernel", "scores_kernel", "eliminate_kernel"}
    assert expected | {"features_kernel", "advance_kernel"} <= set(calls)


def test_the_processes_shares_are_the_whole(compiled):
    everything = compiled(lambda name: True)[1]
    shares = [compiled(lambda name, worker=worker: warm.worker_of(name, 3) == worker)[1] for worker in range(3)]
    assert sorted(name for share in shares for name in share) == sorted(everything)
    assert all(shares)


def test_fresh_memory_is_fresh_again_behind_it(compiled):
    before = torch.empty, torch.empty_like, torch.Tensor.new_empty
    compiled(lambda name: False)
    assert before == (torch.empty, torch.empty_like, torch.Tensor.new_empty)
