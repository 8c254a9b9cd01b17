"""The compiled library, if it is there. It holds no PyTorch: Python passes raw pointers, sizes and strides."""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from esat_kernels import _dispatch

INTERFACE = 1  # of csrc/bindings.cpp: what is passed as addresses, and in which order
_LIBRARY: ModuleType | None = None
_REASON: str | None = None


def _file_at(address: int) -> str | None:
    """The file that is mapped at this address of the process (Linux)."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        start, end = (int(bound, 16) for bound in fields[0].split("-"))
        if start <= address < end:
            return fields[5] if len(fields) == 6 else None
    return None


def _pytorch_openmp() -> str | None:
    """The OpenMP runtime that PyTorch calls, whatever its wheel names the file; None for a PyTorch without OpenMP."""
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:  # the library is loaded already: this asks for its handle, and dlsym then follows what it is linked to
        function = ctypes.CDLL(str(path)).omp_get_max_threads
    except (OSError, AttributeError):
        return None
    address = ctypes.cast(function, ctypes.c_void_p).value
    return None if address is None else _file_at(address)


def _share_openmp() -> None:
    """Make the runtime's functions visible to the library, which is linked to none, so that the process has one pool of threads."""
    if not sys.platform.startswith("linux"):
        return
    runtime = _pytorch_openmp() or "libgomp.so.1"
    try:
        ctypes.CDLL(runtime, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise ImportError(f"no OpenMP runtime: {error}") from error


def _build_note() -> str | None:
    """Why the installation has no library, as setup.py wrote it down."""
    note = Path(__file__).with_name("_native_build.json")
    if not note.exists():
        return None
    try:
        return str(json.loads(note.read_text())["reason"])
    except (ValueError, KeyError, OSError) as error:
        return f"unreadable note {note.name}: {error}"


def _load() -> tuple[ModuleType | None, str | None]:
    try:
        _share_openmp()
        library = importlib.import_module("esat_kernels._esat_native")
    except ModuleNotFoundError:
        return None, f"no native library: {_build_note() or f'no _esat_native in {Path(__file__).parent}, `make native` builds it'}"
    except ImportError as error:  # it is there, but does not load
        return None, f"no native library: {_build_note() or error}"
    found = getattr(library, "interface", None)
    if found != INTERFACE:
        return None, f"no native library: it has the interface {found}, this code {INTERFACE}; `make native` builds it again"
    return library, None


_LIBRARY, _REASON = _load()


def library() -> ModuleType:
    """The pybind11 module; NotImplementedError with the reason where it is missing."""
    if _LIBRARY is None:
        raise NotImplementedError(_REASON)
    return _LIBRARY


def unavailable() -> str | None:
    """None if the library is loaded, else why not."""
    return _REASON


def unsupported_tensors(*tensors: Tensor) -> str | None:
    """Why the library's plain functions, which read memory and know no gradients, cannot take these tensors, or None."""
    if _REASON is not None:
        return _REASON
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return "the call is being traced"
    for tensor in tensors:
        if type(tensor) not in (Tensor, torch.nn.Parameter):
            return f"tensors must be plain, got {type(tensor).__name__}"
        if tensor.device.type != "cpu":
            return f"tensors must be on the CPU, got {tensor.device}"
        if tensor.requires_grad and torch.is_grad_enabled():
            return "this kernel has no gradient"
        if tensor.is_neg():
            return "tensors must not be lazily negated views"
    return _dispatch.forward_mode(*tensors)


def address(op: str, tensor: Tensor, dtype: torch.dtype, rows: int, *width: int) -> int:
    """Where `tensor` lies: contiguous on the CPU, of this dtype, [rows or more, *width]. ValueError for any other."""
    if tensor.dtype is dtype and tensor.size(0) >= rows and tensor.shape[1:] == width and tensor.is_contiguous() and tensor.is_cpu:
        return tensor.data_ptr()
    shape = ", ".join(map(str, (f"at least {rows}", *width)))
    found = f"{tensor.dtype} {tuple(tensor.shape)} with strides {tensor.stride()} on {tensor.device}"
    raise ValueError(f"{op}: expected {dtype} [{shape}], contiguous on the CPU, got {found}")


def cpu_isa() -> str:
    """The best set of instructions that the CPU kernels use: what the machine has, or the lesser set that ESAT_CPU names.

    ValueError if ESAT_CPU names one that the machine lacks, NotImplementedError without the library.
    """
    return str(library().cpu_isa())


def cpu_sets() -> list[str]:
    """The sets that this machine has, the least first, whatever ESAT_CPU says. NotImplementedError without the library."""
    return list(library().cpu_sets())


class KernelRow(NamedTuple):
    """An operation, the sets that there are kernels of it for, the best first, and the one that runs here; None: PyTorch does it."""

    operation: str
    sets: list[str]
    chosen: str | None


def kernel_table() -> list[KernelRow]:
    """Which set each operation of the CPU kernels takes. Obeys ESAT_CPU and raises as `cpu_isa`."""
    return [KernelRow(*row) for row in library().kernel_table()]
