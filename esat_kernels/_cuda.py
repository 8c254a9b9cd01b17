"""The library of the CUDA kernels, if it is there: a C interface that takes addresses, so that one build serves every Python and PyTorch."""

from __future__ import annotations

import ctypes
from pathlib import Path

FILE = Path(__file__).with_name("libesat_cuda.so")
_INVALID = 1  # csrc/attention/exports_cuda.cu: Status

_LIBRARY: ctypes.CDLL | None = None
_REASON: str | None = None


def _load() -> tuple[ctypes.CDLL | None, str | None]:
    if not FILE.exists():
        return None, f"not built: no {FILE.name} in {FILE.parent}, `make cuda` builds it where nvcc is"
    try:
        library = ctypes.CDLL(str(FILE))
        for name in ("esat_cuda_about", "esat_cuda_error"):
            getattr(library, name).restype = ctypes.c_char_p
    except (OSError, AttributeError) as error:  # another machine's, damaged, or another library of this name
        return None, f"not built: {FILE.name} does not load: {error}"
    return library, None


_LIBRARY, _REASON = _load()


def unavailable() -> str | None:
    """None if the library is loaded, else why not: "not built: ..."."""
    return _REASON


def about() -> str | None:
    """The compiler, the architectures and the sources that the library was built from; None without one."""
    return None if _LIBRARY is None else _LIBRARY.esat_cuda_about().decode()


def library() -> ctypes.CDLL:
    """The loaded library; NotImplementedError with the reason where there is none."""
    if _LIBRARY is None:
        raise NotImplementedError(_REASON)
    return _LIBRARY


def check(status: int) -> None:
    """ValueError for a call that the library refused, RuntimeError for one that CUDA failed, each with what the library says."""
    if status:
        said = library().esat_cuda_error().decode()
        raise ValueError(said) if status == _INVALID else RuntimeError(said)
