"""Whether GPU kernels can run here, and which `backend="auto"` may choose: only those that a run of `make gpu` on such a device has confirmed."""

from __future__ import annotations

import torch

# Device name (torch.cuda.get_device_name) -> backends in order of speed. Empty: no GPU has run these kernels yet.
VERIFIED: dict[str, tuple[str, ...]] = {}


def verified_backends(device: torch.device) -> tuple[str, ...]:
    """GPU backends that may be chosen without being named; none for a CPU."""
    if device.type != "cuda":
        return ()
    return VERIFIED.get(torch.cuda.get_device_properties(device).name, ())


LEAST_SHARED_MEMORY = 99 * 1024  # of the devices from compute capability 8.0 on: sm_86, sm_89, sm_120


def shared_memory(device: torch.device | None = None) -> int:
    """Bytes of shared memory that one block of a CUDA device (None: the current one) can have."""
    properties = torch.cuda.get_device_properties(device)
    return int(getattr(properties, "shared_memory_per_block_optin", LEAST_SHARED_MEMORY))


def has_dependent_launches(device: torch.device) -> bool:
    """Whether a kernel can be launched on this device before the one in front of it is done: from compute capability 9.0 on."""
    return device.type == "cuda" and torch.cuda.get_device_properties(device).major >= 9


def cuda_unavailable(device: torch.device | None = None) -> str | None:
    """None if the GPU kernels can run on this device (None: the current one), else why not."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    # torch.compile traces this: it knows the properties, but neither get_device_capability nor get_device_name.
    properties = torch.cuda.get_device_properties(device)
    if properties.major < 8:
        return f"needs compute capability 8.0, got {properties.major}.{properties.minor}"
    return None


def fp8_unavailable(device: torch.device) -> str | None:
    """None if the matrix units of this device, where Triton kernels run, multiply e4m3, else why not; the interpreter's CPU does."""
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    if (properties.major, properties.minor) < (8, 9):
        return f"products in fp8 need compute capability 8.9, got {properties.major}.{properties.minor}"
    return None
