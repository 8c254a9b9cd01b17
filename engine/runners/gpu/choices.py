"""Which implementation of a product and of a convolution runs on a device, as measured there and kept in choices.json."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, Literal

import torch

Implementation = Literal["fused", "library"]
_FILE = Path(__file__).with_name("choices.json")


@dataclasses.dataclass(frozen=True)
class Choices:
    """products: "MxNxK" -> implementation; a shape that is not listed is "fused" up to so many rows M, "library" above."""

    verified: bool
    fused_up_to_rows: int
    products: dict[str, Implementation]
    fused_convolutions: bool  # cuDNN's convolution with bias and ReLU in one call instead of PyTorch's three

    def of_product(self, rows: int, outputs: int, inputs: int) -> Implementation:
        """ "fused": `esat_kernels.linear` with LayerNorm, activation and residual inside; "library": PyTorch's calls around cuBLASLt."""
        small: Implementation = "fused" if rows <= self.fused_up_to_rows else "library"
        return self.products.get(f"{rows}x{outputs}x{inputs}", small)


@functools.cache
def _stored() -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = json.loads(_FILE.read_text())
    return entries


def choices_for(device: torch.device) -> Choices:
    """The device's entry (by `torch.cuda.get_device_name`), or the default, which is a guess."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "default"
    entry = _stored().get(name, _stored()["default"])
    return Choices(**{field.name: entry[field.name] for field in dataclasses.fields(Choices)})
