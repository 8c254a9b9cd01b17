"""The Triton kernels without a GPU: in Triton's interpreter, which has to be chosen before Triton is imported, so in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import esat_kernels
from esat_kernels import _device, testing
from esat_kernels.attention import triton
from tests.conftest import REPOSITORY
from tests.require import require


@pytest.mark.parametrize("cases", ["cases", "frame_cases", "product_cases", "meeting_cases", "fp8_cases", "head_cases", "promise_cases"])
def test_the_kernels_in_the_interpreter(cases):
    require("triton", None if importlib.util.find_spec("triton") else "Triton is not installed")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "--no-header", "-x", "-p", "no:cacheprovider", f"tests/kernels/triton_{cases}.py"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_the_backend_says_why():
    x = torch.zeros(1, 1, 8, 64)
    assert triton.unavailable() in ("no CUDA device", "Triton is not installed")
    with pytest.raises(NotImplementedError, match=r"attention: backend 'triton' cannot run: (no CUDA device|Triton is not installed)"):
        esat_kernels.fda_attention(x, x, x, backend="triton")


def test_the_checks_ask_each_device_and_only_what_a_compiled_program_can(monkeypatch):
    """torch.compile evaluates is_available and get_device_properties; other questions would break its graph, on a CUDA device only."""

    def untraceable(*_):
        raise AssertionError("not for torch.compile")

    names = {"cuda:0": SimpleNamespace(name="old", major=7, minor=5), "cuda:1": SimpleNamespace(name="new", major=9, minor=0)}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device=None: names[str(device or "cuda:0")])
    for name in ("get_device_name", "get_device_capability"):
        monkeypatch.setattr(torch.cuda, name, untraceable)
    monkeypatch.setattr(_device, "VERIFIED", {"new": ("triton",)})
    assert _device.cuda_unavailable() == "needs compute capability 8.0, got 7.5"
    assert _device.cuda_unavailable(torch.device("cuda:1")) is None
    assert [_device.verified_backends(torch.device(name)) for name in ("cpu", "cuda:0", "cuda:1")] == [(), (), ("triton",)]


def test_views_keep_their_gaps_on_their_way_to_a_device():
    view = torch.arange(60.0).view(5, 12)[1:4, 2:9:3]
    assert torch.equal(testing.move(view, "cpu"), view)
    assert testing.move(view, "meta").stride() == view.stride() != view.to("meta").stride()
    assert testing.move(view, "cpu").untyped_storage().nbytes() == 240
