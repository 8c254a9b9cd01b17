"""3 x 3 convolutions with ReLU, as products that load their operands from the map itself (csrc/layers/convolution.h)."""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import torch
from torch import Tensor

from esat_kernels import _native
from esat_kernels.linear.native import kernels
from esat_kernels.linear.packing import TILE_ROWS, huge_zeros, pack, pad_bias, padded


class Raster(NamedTuple):
    """Where a convolution finds its pixels: a map is rows [pixels, channels], row after row of the image with its border.

    Output r, of `pixels`, reads the inputs r + width dy + dx, dy and dx in 0 .. 2, and is written to pixel r + shift.
    """

    width: int
    pixels: int
    shift: int


def map_pixels(pixels: int, width: int) -> int:
    """Pixels that a map of `pixels` must hold in memory: the last tile of rows reads, and throws away, what lies behind it."""
    return pixels + 2 * width + 2 + TILE_ROWS


@dataclasses.dataclass
class PackedConvolution:
    """Weight packed over (dy, dx, channel), and bias; inputs and outputs are padded to multiples of 32."""

    weight: Tensor
    bias: Tensor
    inputs: int
    outputs: int

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> PackedConvolution:
        """weight [N, K, 3, 3] and bias [N] for maps in `dtype`, float32 or bfloat16."""
        outputs, inputs = weight.shape[:2]
        square = weight.new_zeros(padded(outputs), 9, padded(inputs))
        square[:outputs, :, :inputs] = weight.permute(0, 2, 3, 1).reshape(outputs, 9, inputs)
        return cls(pack(square.flatten(1), dtype), pad_bias(bias), padded(inputs), padded(outputs))


class Convolution:
    """relu(3 x 3 convolution + bias) of a map into a map of its own, which holds `pixels` and is zero at first. Serves one thread at a time.

    NotImplementedError where the processor has no products in the weights' dtype, ValueError for a raster that leaves the map and another bias.
    """

    def __init__(self, packed: PackedConvolution, raster: Raster, pixels: int):
        dtype = packed.weight.dtype
        if raster.shift < 0 or raster.pixels + raster.shift > pixels:
            raise ValueError(f"convolution: outputs must lie within {pixels} pixels, got {raster}")
        self._weights, self._valid = packed, (torch.uint8, raster.pixels)
        self._source = (dtype, map_pixels(raster.pixels, raster.width), packed.inputs)
        self._out = huge_zeros((map_pixels(pixels, raster.width), packed.outputs), dtype)
        self._convolve = functools.partial(_native.library().convolve, kernels(dtype))
        bias = _native.address("convolution", packed.bias, torch.float32, packed.outputs)
        self._sizes = (packed.weight.data_ptr(), bias, packed.inputs, packed.outputs, *raster)

    def __call__(self, source: Tensor, valid: Tensor) -> Tensor:
        """source: a map [map_pixels(raster's pixels, width) or more, inputs] in the weights' dtype; valid uint8 [raster's pixels]: 0 for an output
        outside the image, which becomes zero. Returns the map [.., outputs], which the next call overwrites. ValueError for other tensors."""
        where, valid_at = _native.address("convolution", source, *self._source), _native.address("convolution", valid, *self._valid)
        self._convolve(where, *self._sizes, valid_at, self._out.data_ptr())
        return self._out
