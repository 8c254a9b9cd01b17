"""What a program may have set as PyTorch's default dtype and device: memory that kernels get as an address must not follow it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

DEFAULTS = (torch.float64, torch.bfloat16, torch.device("meta"))


@contextlib.contextmanager
def set_default(default: torch.dtype | torch.device) -> Iterator[None]:
    """The default dtype or device within."""
    if isinstance(default, torch.device):
        with default:
            yield
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
