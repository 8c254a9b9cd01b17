"""The compiled library, if it is there. It holds no PyTorch: Python passes raw pointers, sizes and strides."""

from __future__ import annotations

from types import ModuleType

import torch  # noqa: F401  first, so that the library finds PyTorch's OpenMP runtime already loaded

_LIBRARY: ModuleType | None = None
_REASON: str | None = None

try:
    from esat_kernels import _esat_native as _LIBRARY  # type: ignore[attr-defined, no-redef]
except ImportError as error:
    _REASON = f"native library not available: {error}"


def library() -> ModuleType:
    """The pybind11 module; NotImplementedError with the reason where it is missing."""
    if _LIBRARY is None:
        raise NotImplementedError(_REASON)
    return _LIBRARY


def unavailable() -> str | None:
    """None if the library is loaded, else why not."""
    return _REASON
