"""Sizes and paths that the attention tests share."""

from __future__ import annotations

import pytest

from esat_kernels import _native

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
