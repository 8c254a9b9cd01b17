"""What was measured on a device: `tuned/<device>.json`, launch shapes by operation and the engine's choices (`benchmarks.gpu.products`)."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).with_name("tuned")


def slug(device: str) -> str:
    """ "NVIDIA H200" -> "nvidia-h200"."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def file(device: str) -> Path:
    """Where the device's table lies, if there is one."""
    return FOLDER / f"{slug(device)}.json"


@functools.cache
def device_name(device: torch.device) -> str:
    """As CUDA calls it; empty for a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""


@functools.cache
def _table(device: str) -> dict[str, dict[str, Any]]:
    return json.loads(file(device).read_text()) if device and file(device).is_file() else {}


def find(device: str, operation: str, key: str) -> list[int] | None:
    """The measured tiles of an operation's problem, or None."""
    return _table(device).get(operation, {}).get(key)


def measured(device: torch.device, part: str) -> dict[str, Any]:
    """A part of the device's table; empty if nothing was measured."""
    return _table(device_name(device)).get(part, {})
