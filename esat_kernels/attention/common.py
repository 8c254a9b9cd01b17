"""What the backends of force-directed attention share: the constants, which scores are wanted, the layout of a result."""

from __future__ import annotations

import math
from collections.abc import Container
from typing import NamedTuple

import torch
from torch import Tensor


class Forces(NamedTuple):
    """The constants of equations 5-7. Its order is that of the torch.library operators, of the kernels and of the native library."""

    alpha: float
    beta: float
    delta: float
    scale: float

    @classmethod
    def of(cls, head_dim: int, alpha: float, beta: float, delta: float | None = None, scale: float | None = None) -> Forces:
        """The constants as numbers: delta and scale default to head_dim ** -0.5. ValueError outside their ranges."""
        usual = head_dim**-0.5
        forces = cls(float(alpha), float(beta), usual if delta is None else float(delta), usual if scale is None else float(scale))
        for name, value in forces._asdict().items():
            if not (math.isfinite(value) and (value > 0 or (value == 0 and name != "scale"))):
                allowed = "a positive number" if name == "scale" else "zero or a positive number"
                raise ValueError(f"attention: {name} must be {allowed}, got {value}")
        return forces


class Scores(NamedTuple):
    """Candidate elimination's scores: the first num_template tokens are the template's, template_token is the one whose row counts.

    By default none are wanted (template_token -1).
    """

    num_template: int = 0
    template_token: int = -1

    def empty(self, q: Tensor) -> Tensor:
        """float32 [B, N - num_template] for q [B, H, N, D]; [B, 0] if no scores are wanted."""
        return q.new_empty((q.shape[0], 0 if self.template_token < 0 else q.shape[2] - self.num_template), dtype=torch.float32)


def empty_out(q: Tensor) -> Tensor:
    """out [B, H, N, D], stored as [B, N, H, D]: the layout that the output projection reads without a copy."""
    batch, heads, tokens, head_dim = q.shape
    return q.new_empty(batch, tokens, heads, head_dim).transpose(1, 2)


def check_lse(lse: Tensor, q: Tensor) -> None:
    """That a backward kernel, which gets no more of it than its address, can read lse for q [B, H, N, D]. ValueError."""
    if lse.shape != q.shape[:3] or lse.dtype != torch.float32 or lse.device != q.device:
        expected, found = f"{tuple(q.shape[:3])} torch.float32 on {q.device}", f"{tuple(lse.shape)} {lse.dtype} on {lse.device}"
        raise ValueError(f"attention: lse must be {expected}, got {found}")


def address(tensor: Tensor) -> tuple[int, tuple[int, ...]]:
    """Where [B, H, N, D] lies, and its strides of batch, head and token in elements."""
    return tensor.data_ptr(), tensor.stride()[:3]


def gpu_unsupported(
    q: Tensor, dtypes: Container[torch.dtype], dtype_names: str, head_dims: Container[int], head_dim_names: str
) -> str | None:
    """Why a GPU kernel for these dtypes and head dimensions cannot take q [B, H, N, D], or None."""
    if q.dtype not in dtypes:
        return f"dtype must be {dtype_names}, got {q.dtype}"
    if q.shape[-1] not in head_dims:
        return f"the head dimension must {head_dim_names}, got {q.shape[-1]}"
    if q.shape[0] * q.shape[1] > 65535:
        return f"batch times heads must be at most 65535, got {q.shape[0] * q.shape[1]}"
    return None
