"""Which GPU kernels `backend="auto"` may choose: only those that a run of `make gpu` on such a device has confirmed."""

from __future__ import annotations

import torch

# Device name (torch.cuda.get_device_name) -> backends in order of speed. Empty: no GPU has run these kernels yet.
VERIFIED: dict[str, tuple[str, ...]] = {}


def verified_backends(device: torch.device) -> tuple[str, ...]:
    """GPU backends that may be chosen without being named; none for a CPU."""
    if device.type != "cuda":
        return ()
    return VERIFIED.get(torch.cuda.get_device_name(device), ())
