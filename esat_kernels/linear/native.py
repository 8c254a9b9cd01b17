"""Which of the compiled CPU products (csrc/linear) there are here. The layers of `esat_kernels.layers` are made of them."""

from __future__ import annotations

from typing import Any

import torch

from esat_kernels import _native


def unsupported(dtype: torch.dtype, int8: bool = False) -> str | None:
    """Why there are no products in `dtype`, float32 or bfloat16, on this processor, `int8`: of int8 weights with results in it; or None.

    Obeys ESAT_CPU. ValueError for another dtype.
    """
    if (reason := _native.unavailable()) is not None:
        return reason
    found = _native.library().kernels(str(dtype).removeprefix("torch."))
    if found is None or (int8 and not found.int8_pair_limit):
        return f"there are no products {'of int8 with results in' if int8 else 'in'} {dtype} for {_native.cpu_isa()}"
    return None


def kernels(dtype: torch.dtype, int8: bool = False) -> Any:
    """The fastest ones, a handle for the compiled layers; NotImplementedError with the reason where there are none."""
    if (reason := unsupported(dtype, int8)) is not None:
        raise NotImplementedError(reason)
    return _native.library().kernels(str(dtype).removeprefix("torch."))
