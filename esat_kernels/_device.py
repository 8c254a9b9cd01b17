"""Whether GPU kernels can run here, and which `backend="auto"` may choose: only those that a run of `make gpu` on such a device has confirmed."""

from __future__ import annotations

import torch

# Device name (torch.cuda.get_device_name) -> backends in order of speed. Empty: no GPU has run these kernels yet.
VERIFIED: dict[str, tuple[str, ...]] = {}


def verified_backends(device: torch.device) -> tuple[str, ...]:
    """GPU backends that may be chosen without being named; none for a CPU."""
    if device.type != "cuda":
        return ()
    return VERIFIED.get(torch.cuda.get_device_name(device), ())


def cuda_unavailable() -> str | None:
    """None if there is a CUDA device that the GPU kernels can run on, else why not."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    if torch.cuda.get_device_capability() < (8, 0):
        return f"needs compute capability 8.0, got {'.'.join(map(str, torch.cuda.get_device_capability()))}"
    return None
