"""What can run on this machine, and why the rest cannot."""

from __future__ import annotations

import torch

from esat_kernels import _native
from esat_kernels.attention import triton


def backends() -> dict[str, str | None]:
    """backend -> None if it can run here, else the reason why not."""
    return {"cpu": _native.unavailable(), "triton": triton.available(), "cuda": _cuda(), "reference": None}


def _cuda() -> str | None:
    status = _native.cuda_status()
    if status.startswith("not built"):
        return status
    return None if torch.cuda.is_available() else "no CUDA device"
