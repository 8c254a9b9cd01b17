"""Sizes and paths that the attention tests share."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from esat_kernels import _native, testing
from esat_kernels.attention import native
from esat_kernels.attention.common import Scores

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ISAS = ("portable", "avx2", "avx512", "avx512bf16", "amx")
VIT_B_TOKENS = (720, 548, 427, 343)
SMALL_MODEL_TOKENS = (320, 244, 190, 153)


def force_isa(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    """Run the CPU kernels of this instruction set, or skip where the machine lacks it."""
    monkeypatch.setenv("ESAT_CPU", isa)
    try:
        chosen = _native.cpu_isa()
    except ValueError as error:
        pytest.skip(str(error))
    assert chosen == isa


def isas() -> Any:
    """A fixture: each instruction set in turn; what the machine lacks is skipped."""

    @pytest.fixture(params=ISAS)
    def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
        force_isa(monkeypatch, request.param)
        return request.param

    return isa


def run(case: testing.Case, num_template: int = 0, template_token: int = -1) -> tuple:
    return native.forward_counted(case.q, case.k, case.v, case.forces, Scores(num_template, template_token))


def gradients(case: testing.Case, dout: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    out, _, lse = native.forward(case.q, case.k, case.v, case.forces, Scores())
    return native.backward(dout, case.q, case.k, case.v, out, lse, case.forces)
