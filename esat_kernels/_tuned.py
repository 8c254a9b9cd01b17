"""Launch shapes that were measured on a device: `tuned/<device>.json`, written by `python -m benchmarks.gpu.tune`."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import torch

FOLDER = Path(__file__).with_name("tuned")


def file_name(device: str) -> str:
    """ "NVIDIA H200" -> "nvidia-h200.json"."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".json"


@functools.cache
def device_name(device: torch.device) -> str:
    """As CUDA calls it; empty for a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""


@functools.cache
def _table(device: str) -> dict[str, dict[str, list[int]]]:
    path = FOLDER / file_name(device)
    return json.loads(path.read_text()) if device and path.is_file() else {}


def find(device: str, operation: str, key: str) -> list[int] | None:
    """The measured tiles of an operation's problem, or None."""
    return _table(device).get(operation, {}).get(key)
