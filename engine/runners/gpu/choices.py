"""Which implementation of a product and of a convolution runs on a device, as measured there (`esat_kernels/tuned/<device>.json`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import torch

import esat_kernels
from engine.errors import TableError

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


_EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "verified": ("true or false", lambda value: isinstance(value, bool)),
    "fused_up_to_rows": ("a whole number from 0 on", lambda value: type(value) is int and value >= 0),
    "products": ("names by shape", lambda value: isinstance(value, dict) and all(isinstance(name, str) for name in value.values())),
    "convolutions": ("a name", lambda value: isinstance(value, str)),
}


def choices_for(device: torch.device) -> Choices:
    """The device's measured choices, or the defaults; of a table that was written for another version what still is a choice.

    TableError for a table that no version has written.
    """
    try:
        table = esat_kernels.measured(device, "engine")
    except ValueError as error:  # which names the file
        raise TableError(str(error)) from error
    found = {name: value for name, value in table.items() if name in _EXPECTED}
    for name, value in found.items():
        expected, is_one = _EXPECTED[name]
        if not is_one(value):
            file = esat_kernels.tuned_file(torch.cuda.get_device_name(device))
            got = f"{type(value).__name__} {str(value)[:80]}"
            raise TableError(
                f"{file}: engine.{name} must be {expected}, got {got}: delete the file; `make gpu GPU_OPTIONS=--again` measures this device anew"
            )
    if found.get("convolutions") not in get_args(Convolutions):
        found.pop("convolutions", None)
    if "products" in found:
        found["products"] = {shape: choice for shape, choice in found["products"].items() if choice in get_args(Implementation)}
    return Choices(**found)
