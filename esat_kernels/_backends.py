"""What can run on this machine, and why the rest cannot."""

from __future__ import annotations

from esat_kernels import _native, _triton
from esat_kernels.attention import cuda


def backends() -> dict[str, str | None]:
    """backend -> None if it can run here, else the reason why not."""
    return {"cpu": _native.unavailable(), "triton": _triton.unavailable(), "cuda": cuda.unavailable(), "reference": None}
