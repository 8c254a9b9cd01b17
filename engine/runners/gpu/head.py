"""The centre head of the GPU engine: all branches in the same four convolutions, their last 1 x 1 ones in float32 behind the fourth.

Offset and size are computed everywhere although the box is read at one cell: their share of a frame is 4 % of its arithmetic, and a window
around that cell would be computed after the maximum is known, in many launches of very small kernels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import esat_kernels
from engine.runners.gpu.choices import Convolutions
from engine.runners.gpu.weights import Convolution, HeadWeights


class Maps(NamedTuple):
    """float32, contiguous."""

    score: Tensor  # [B, 1, F, F], probabilities
    size: Tensor  # [B, 2, F, F], width and height over the search region's side
    offset: Tensor  # [B, 2, F, F], cells


class Head:
    """features [B, F * F, dim] -> maps. convolutions: what computes them, as in `Choices`."""

    def __init__(self, weights: HeadWeights, side: int, convolutions: Convolutions, backend: str):
        self._weights = weights
        self._side = side
        self._convolutions, self._backend = convolutions, backend
        self._without_cudnn: set[int] = set()  # convolutions, by their number

    def __call__(self, features: Tensor) -> Maps:
        return self._own(features) if self._convolutions == "own" else self._by_libraries(features)

    def _own(self, hidden: Tensor) -> Maps:
        weights, side, backend = self._weights, self._side, self._backend
        *first, last = [(one.weight.permute(0, 2, 3, 1), one.bias, one.groups) for one in weights.convolutions]
        for weight, bias, groups in first:
            hidden = esat_kernels.head_convolution(hidden, weight, bias, groups, side, backend)
        found = esat_kernels.head_convolution_with_maps(hidden, *last[:2], weights.last_weight, weights.last_bias, side, backend)
        return Maps(*found)

    def _by_libraries(self, features: Tensor) -> Maps:
        batch, cells, channels = features.shape
        side = self._side
        image = features.view(batch, side, side, channels).permute(0, 3, 1, 2)  # channels last, no copy
        for index, convolution in enumerate(self._weights.convolutions):
            image = self._convolve(index, image, convolution)
        hidden = image.permute(0, 2, 3, 1).reshape(batch, cells, -1)
        return Maps(*esat_kernels.head_maps(hidden, self._weights.last_weight, self._weights.last_bias, side, self._backend))

    def _convolve(self, index: int, image: Tensor, convolution: Convolution) -> Tensor:
        """By cuDNN; where it has no engine, as for some groups of few channels, from then on by PyTorch's own kernels. That is found out in the
        first call, which no graph captures."""
        if index not in self._without_cudnn:
            try:
                return self._by_library(image, convolution, self._convolutions == "cudnn")
            except RuntimeError as error:
                if isinstance(error, torch.OutOfMemoryError) or not any(word in str(error).lower() for word in ("cudnn", "find an engine")):
                    raise
                self._without_cudnn.add(index)
        with torch.backends.cudnn.flags(enabled=False):
            return self._by_library(image, convolution, False)

    @staticmethod
    def _by_library(image: Tensor, convolution: Convolution, fused: bool) -> Tensor:
        weight, bias, groups = convolution.weight, convolution.bias, convolution.groups
        if fused:
            return torch.cudnn_convolution_relu(image, weight, bias, (1, 1), (1, 1), (1, 1), groups)
        return torch.conv2d(image, weight, bias, padding=1, groups=groups).relu_()
