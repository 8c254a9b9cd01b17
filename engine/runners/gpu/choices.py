"""Which implementation of a product and of a convolution runs on a device, as measured there (`esat_kernels/tuned/<device>.json`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, get_args

import torch

import esat_kernels

Implementation = Literal["fused", "library"]
Convolutions = Literal["own", "cudnn", "library"]


@dataclasses.dataclass(frozen=True)
class Choices:
    """products: "MxNxK" -> implementation; a shape that is not listed is "fused" up to so many rows M, "library" above.

    convolutions: the head's. "own": `esat_kernels.head_convolution`, one launch each; "cudnn": cuDNN's call with bias and ReLU; "library":
    PyTorch's three around cuDNN.
    The defaults are a guess: one kernel with everything fused where a product is small, cuBLASLt where it is large.
    """

    verified: bool = False
    fused_up_to_rows: int = 1024
    products: Mapping[str, Implementation] = dataclasses.field(default_factory=dict)
    convolutions: Convolutions = "own"

    def of_product(self, rows: int, outputs: int, inputs: int) -> Implementation:
        """ "fused": `esat_kernels.linear` with LayerNorm, activation and residual inside; "library": PyTorch's calls around cuBLASLt."""
        small: Implementation = "fused" if rows <= self.fused_up_to_rows else "library"
        return self.products.get(f"{rows}x{outputs}x{inputs}", small)


def choices_for(device: torch.device) -> Choices:
    """The device's measured choices, or the defaults; of a table that was written for another version what still is a choice."""
    names = {field.name for field in dataclasses.fields(Choices)}
    found = {name: value for name, value in esat_kernels.measured(device, "engine").items() if name in names}
    if found.get("convolutions") not in get_args(Convolutions):
        found.pop("convolutions", None)
    if "products" in found:
        found["products"] = {shape: choice for shape, choice in found["products"].items() if choice in get_args(Implementation)}
    return Choices(**found)
