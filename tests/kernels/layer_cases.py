"""The sets of instructions that the CPU's layers are tested on, each in the types that it has."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from esat_kernels import _native
from esat_kernels.linear.packing import huge_zeros
from tests.require import require


class Engine(NamedTuple):
    """One set of kernels, forced by ESAT_CPU for the length of a test."""

    name: str  # "fp32", "bf16" or "int8"
    dtype: torch.dtype  # of the activations
    unit: float  # relative rounding error of a stored activation


def forced(param: str, monkeypatch) -> Engine:
    name, isa = param.split("-")
    require("cpu", _native.unavailable())
    require(isa, None if isa in _native.cpu_sets() else f"this machine has {', '.join(_native.cpu_sets())}")
    monkeypatch.setenv("ESAT_CPU", isa)
    dtype = torch.bfloat16 if isa in ("avx512bf16", "amx", "neonbf16") else torch.float32
    dtype_name = str(dtype).removeprefix("torch.")
    operation = f"products int8, {dtype_name} around" if name == "int8" else f"products {dtype_name}"
    assert {row.operation: row.chosen for row in _native.kernel_table()}[operation] == isa
    return Engine(name, dtype, torch.finfo(dtype).eps)


PLAIN = ["fp32-avx2", "fp32-avx512", "bf16-avx512bf16", "bf16-amx", "fp32-neon", "bf16-neonbf16"]
INT8 = [f"int8-{name}" for name in ("avx2", "avx2vnni", "avx512vnni", "avx512bf16", "amx", "neondot", "neoni8mm", "neonbf16")]


def engines(names: list[str]):
    """A fixture: each of these engines that the machine has."""

    @pytest.fixture(params=names)
    def engine(request, monkeypatch) -> Engine:
        return forced(request.param, monkeypatch)

    return engine


def threads_put_back():
    """A fixture for every test of a file: PyTorch's number of threads is afterwards what it was."""

    @pytest.fixture(autouse=True)
    def put_back():
        before = torch.get_num_threads()
        yield
        torch.set_num_threads(before)

    return put_back


def random_rows(count: int, width: int, seed: int, dtype: torch.dtype, pad: int = 16) -> Tensor:
    """Rows of random values, with whole tiles behind them."""
    rows = huge_zeros((-(-count // pad) * pad, width), dtype)
    return rows.copy_(torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed)))


def unpacked(weight: Tensor) -> Tensor:
    """A packed weight as a float64 matrix, padding and all."""
    panels, steps, _, lanes, _, lane = weight.shape
    return weight.permute(0, 2, 4, 1, 3, 5).reshape(panels * 32, steps * lanes * lane).double()
