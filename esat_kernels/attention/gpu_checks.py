"""What both GPU backends ask of an attention call."""

from __future__ import annotations

from collections.abc import Container

import torch
from torch import Tensor


def unsupported(q: Tensor, dtypes: Container[torch.dtype], dtype_names: str, head_dims: Container[int], head_dim_names: str) -> str | None:
    """Why a kernel for these dtypes and head dimensions cannot take q [B, H, N, D], or None."""
    if q.dtype not in dtypes:
        return f"dtype must be {dtype_names}, got {q.dtype}"
    if q.shape[-1] not in head_dims:
        return f"the head dimension must {head_dim_names}, got {q.shape[-1]}"
    if q.shape[0] * q.shape[1] > 65535:
        return f"batch times heads must be at most 65535, got {q.shape[0] * q.shape[1]}"
    return None
