"""What the Triton backends of all operations share: whether they can run here, and on which device."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from esat_kernels import _device, _dispatch, _tuned

A100_SHARED_MEMORY = 163 * 1024
_INSTALLED = find_spec("triton") is not None


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def unavailable(device: torch.device | None = None) -> str | None:
    """None if Triton kernels can run here (on this CUDA device, by default the current one), else why not."""
    if not _INSTALLED:
        return "Triton is not installed"
    return None if interpreted() else _device.cuda_unavailable(device)


def unsupported(*tensors: Tensor, differentiable: bool = False) -> str | None:
    """Why kernels, which have no gradient unless `differentiable`, cannot take these tensors, or None."""
    device = tensors[0].device
    reason = unavailable(device if device.type == "cuda" else None)
    if reason is not None:
        return reason
    for tensor in tensors:
        if tensor.device.type != "cuda" and not interpreted():
            return f"the input must be on a CUDA device, got {tensor.device}"
        if not differentiable and tensor.requires_grad and torch.is_grad_enabled():
            return "this kernel has no gradient"
    return _dispatch.forward_mode(*tensors)


def on_device_of(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Triton launches on the current device: make it the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.device.type == "cuda" else contextlib.nullcontext()


_dependent: bool | None = None  # None: as measured on the device


def launch_options(device: torch.device) -> dict[str, Any]:
    """For kernels that wait for the launch in front by themselves (`DEPENDENT`): whether they are launched before it is done.

    Programmatic dependent launch, on sm_90 and later; off unless it was measured to pay on this device with these sources
    (`benchmarks.gpu.dependent`).
    """
    wanted = _tuned.dependent_launches(device) if _dependent is None else _dependent
    if not wanted or interpreted() or not _device.has_dependent_launches(device):
        return {"DEPENDENT": False}
    return {"DEPENDENT": True, "launch_pdl": True}


@contextlib.contextmanager
def dependent_launches(wanted: bool) -> Iterator[None]:
    """On or off within, whatever was measured."""
    global _dependent
    before, _dependent = _dependent, wanted
    try:
        yield
    finally:
        _dependent = before


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Of a CUDA device; the interpreter counts as one."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


@functools.cache
def shared_memory(device: torch.device) -> int:
    """Bytes that a block of a CUDA device can have; the interpreter has as many as an A100."""
    return _device.shared_memory(device) if device.type == "cuda" else A100_SHARED_MEMORY


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()
