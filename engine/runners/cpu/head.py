"""The centre head on the CPU engine: the score map everywhere, offset and size only at the one cell where the box is read."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.model.head import probability
from engine.runners.cpu.weights import PackedBranch
from esat_kernels.layers.convolution import Convolution, Raster, map_pixels
from esat_kernels.linear.packing import huge_zeros

_REACH = 4  # four 3 x 3 convolutions: one cell depends on its neighbours up to here
_WINDOW = 2 * _REACH + 1


class Branch:
    """One branch over rasters of a fixed size, with its own maps."""

    def __init__(self, weights: PackedBranch, rasters: list[Raster], pixels: int):
        self._convolutions = [Convolution(layer, raster, pixels) for layer, raster in zip(weights.convolutions, rasters, strict=True)]
        self._last_weight, self._last_bias = weights.last_weight, weights.last_bias

    def __call__(self, features: Tensor, valid: list[Tensor], pixels: Tensor) -> Tensor:
        """features [raster, dim], valid uint8 per convolution and output -> float32 [len(pixels), outputs] before the sigmoid."""
        for convolution, mask in zip(self._convolutions, valid, strict=True):
            features = convolution(features, mask)
        return torch.addmm(self._last_bias, features.index_select(0, pixels).float(), self._last_weight)


def _window_masks(side: int) -> list[Tensor]:
    """For each convolution uint8 [cells, outputs]: which outputs of the window around each cell lie inside the map."""
    masks = []
    for layer in range(1, _REACH + 1):
        reach = _REACH - layer
        raster = window_rasters()[layer - 1]
        output = torch.arange(raster.pixels, device="cpu")
        y, x = output // _WINDOW, output % _WINDOW
        cell = torch.arange(side * side, device="cpu").view(-1, 1)
        row, column = cell // side + y - reach, cell % side + x - reach
        inside = (x <= 2 * reach) & (row >= 0) & (row < side) & (column >= 0) & (column < side)
        masks.append(inside.to(torch.uint8).contiguous())
    return masks


def window_rasters() -> list[Raster]:
    """Rasters of the four convolutions that shrink a 9 x 9 window to its centre."""
    sides = [_WINDOW - 2 * layer for layer in range(1, _REACH + 1)]
    return [Raster(_WINDOW, (side - 1) * _WINDOW + side, 0) for side in sides]


class Head:
    """`features` is the map that the encoder's output goes into: rows [(F + 2)^2, dim] in the weights' dtype with a border of zeros."""

    def __init__(self, branches: dict[str, PackedBranch], config: ModelConfig):
        dtype = branches["ctr"].convolutions[0].weight.dtype
        side = self._side = config.search_grid
        width = side + 2
        raster = Raster(width, (side - 1) * width + side, width + 1)
        self.features = huge_zeros((map_pixels(width * width, width), config.dim), dtype)
        grid = torch.arange(side, device="cpu")
        self.places = ((grid.view(-1, 1) + 1) * width + grid + 1).flatten()  # of the search tokens among the rows of `features`
        self._score = Branch(branches["ctr"], [raster] * _REACH, width * width)
        self._score_valid = [(torch.arange(raster.pixels, device="cpu") % width < side).to(torch.uint8)] * _REACH
        windows = window_rasters()
        self._boxes = {name: Branch(branches[name], windows, _WINDOW * _WINDOW) for name in ("offset", "size")}
        self._window_valid = _window_masks(side)
        steps = torch.arange(-_REACH, _REACH + 1, device="cpu")
        row = (grid.view(-1, 1, 1, 1) + steps.view(1, 1, -1, 1)).expand(side, side, _WINDOW, _WINDOW)
        column = (grid.view(1, -1, 1, 1) + steps.view(1, 1, 1, -1)).expand(side, side, _WINDOW, _WINDOW)
        inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
        places = torch.where(inside, (row + 1) * width + column + 1, 0)  # pixel 0 is a zero of the border
        self._window_places = places.reshape(side * side, _WINDOW * _WINDOW)
        self._window = huge_zeros((map_pixels(_WINDOW * _WINDOW, _WINDOW), config.dim), dtype)
        self._centre = torch.zeros(1, dtype=torch.int64, device="cpu")

    def score(self) -> Tensor:
        """The score map, float32 [F, F], from what lies in `features`."""
        logits = self._score(self.features, self._score_valid, self.places)
        return probability(logits).view(self._side, self._side)

    def offset_and_size(self, cell: int) -> tuple[Tensor, Tensor]:
        """Offset [2] in cells and size [2] over the region's side at one cell (row by row)."""
        torch.index_select(self.features, 0, self._window_places[cell], out=self._window[: _WINDOW * _WINDOW])
        valid = [mask[cell] for mask in self._window_valid]
        offset, size = (self._boxes[name](self._window, valid, self._centre)[0] for name in ("offset", "size"))
        return offset, probability(size)

    def surroundings(self) -> Tensor:
        """float32 [dim]: the mean of the 3 x 3 cells around the cell that `offset_and_size` was asked for last, zeros beyond the border."""
        window = self._window[: _WINDOW * _WINDOW].view(_WINDOW, _WINDOW, -1)
        return window[_REACH - 1 : _REACH + 2, _REACH - 1 : _REACH + 2].float().mean(dim=(0, 1))
