"""Names of devices."""

from __future__ import annotations

import re

import torch

from engine.errors import DeviceError


def resolve_device(device: str) -> str:
    """ "auto" as the device it stands for, and "cpu:0" as "cpu"; DeviceError for one that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device in ("cpu", "cpu:0"):
        return "cpu"
    named = re.fullmatch("cuda(?::([0-9]+))?", device)
    if named is None:
        raise DeviceError(f"device must be auto, cpu, cuda or cuda:N, got {device!r}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(named[1] or 0) >= count:
        raise DeviceError(f"device {device!r} asked for, but PyTorch {torch.__version__} sees {count} CUDA devices: use --device cpu")
    return device


def frames_device(device: torch.device) -> torch.device:
    """The device as tensors on it name theirs: with its number."""
    return torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" and device.index is None else device
