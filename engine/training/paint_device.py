"""Recipes carried out with PyTorch for many crops at once, on the device that trains. What is drawn is what `paint_cpu` draws, up to rounding.

All pictures lie in the device's memory, so that a step sends a few numbers a crop and no pixels. Pictures differ in size, which `grid_sample` does
not take: sampling gathers pixels from one long tensor instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from engine.errors import ConfigError
from engine.training.recipe import Crop, Layer, Look, blur_kernel
from engine.training.resolution import lower_resolution
from engine.training.sources import Pool

_BLUR = 15  # side of the blur kernels
_GREY = (0.114, 0.587, 0.299)  # of blue, green, red


class Painter:
    """Paints crops of pictures that were copied to `device` once. ConfigError for a pool that is read from files when it is drawn from."""

    def __init__(self, pool: Pool, device: torch.device, chunk: int = 128):
        self.device, self.chunk = device, chunk
        self._places: dict[tuple[int, int], tuple[int, int, int]] = {}
        pixels: list[np.ndarray] = []
        total = 0
        for pictures in pool.picture_lists():
            if not isinstance(pictures, list):
                raise ConfigError("augmentation on the device needs pictures in memory: pack them first, or set `augment_on: cpu`")
            for index, picture in enumerate(pictures):
                height, width = picture.shape[:2]
                self._places[id(pictures), index] = (total, height, width)
                pixels.append(np.concatenate([picture.reshape(-1, 3), np.zeros((height * width, 1), np.uint8)], 1).view(np.int32).ravel())
                total += height * width
        self._pixels = torch.from_numpy(np.concatenate(pixels)).to(device)  # a pixel is a whole number: one gather for its three channels
        self._keep = pool  # ids stay valid

    @torch.no_grad()
    def __call__(self, crops: Sequence[Crop]) -> Tensor:
        """uint8 RGB [B, S, S, 3] on the device, of crops of one size."""
        return torch.cat([self._paint(crops[start : start + self.chunk]) for start in range(0, len(crops), self.chunk)])

    def _paint(self, crops: Sequence[Crop]) -> Tensor:
        size = crops[0].size
        canvas = torch.zeros(len(crops), 3, size, size, device=self.device)
        for depth in range(max(len(crop.layers) for crop in crops)):
            which = [index for index, crop in enumerate(crops) if depth < len(crop.layers)]
            _part(canvas, which, lambda below, w=which, d=depth: self._lay(below, [crops[index].layers[d] for index in w]))  # type: ignore[misc]
        canvas = _see(canvas, [crop.look for crop in crops])
        return canvas.to(torch.uint8).permute(0, 2, 3, 1).flip(-1)

    def _tensor(self, values: object, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.as_tensor(np.asarray(values)).to(self.device, dtype, non_blocking=True)

    def _lay(self, below: Tensor, layers: Sequence[Layer]) -> Tensor:
        """The layers [n, 3, S, S], one over each of `below`."""
        size = below.shape[-1]
        places = self._tensor([self._places[id(layer.pictures), layer.index] for layer in layers], torch.int64)
        start, height, width = (column.view(-1, 1, 1) for column in places.unbind(1))
        inverse = np.stack([np.linalg.inv(np.vstack([layer.matrix, [0, 0, 1]]))[:2] for layer in layers])
        a, b, c, d, e, f = (row.view(-1, 1, 1) for row in self._tensor(inverse).flatten(1).unbind(1))
        axis = torch.arange(size, device=self.device, dtype=torch.float32)
        x, y = axis.view(1, 1, -1), axis.view(1, -1, 1)
        dx, dy = self._offsets(layers, x, y)
        u, v = a * (x + dx) + b * (y + dy) + c, d * (x + dx) + e * (y + dy) + f
        left, top = u.floor(), v.floor()
        shown = torch.zeros_like(below)
        for down in (0, 1):
            for right in (0, 1):
                column, row = left.long() + right, top.long() + down
                inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
                index = start + row.clamp(min=0).minimum(height - 1) * width + column.clamp(min=0).minimum(width - 1)
                values = torch.take(self._pixels, index).view(torch.uint8).view(*index.shape, 4)[..., :3].permute(0, 3, 1, 2)
                share = (1 - (u - (left + right)).abs()) * (1 - (v - (top + down)).abs()) * inside
                shown += share.unsqueeze(1) * values
        shown = shown.round_()
        mask = torch.ones_like(u)
        soft = [index for index, layer in enumerate(layers) if layer.cover is not None]
        _part(mask, soft, lambda _: self._soft_masks([layers[index] for index in soft], size))
        ends = [index for index, layer in enumerate(layers) if layer.only_inside]
        within = (u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1)
        _part(mask, ends, lambda whole: whole * within[torch.as_tensor(ends, device=self.device)])
        cut = [index for index, layer in enumerate(layers) if layer.window is not None]
        _part(mask, cut, lambda whole: whole * self._windows([layers[index] for index in cut], size))
        return (below + mask.unsqueeze(1) * (shown - below)).floor_()

    def _offsets(self, layers: Sequence[Layer], x: Tensor, y: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """What bent layers add to the crop's positions, [n, S, 1] along y and [n, 1, S] along x; 0 if none is bent."""
        if all(layer.bend is None for layer in layers):
            return 0.0, 0.0
        flat = np.zeros(6)
        bends = [flat if layer.bend is None else np.concatenate([layer.bend.amount, layer.bend.wave, layer.bend.phase]) for layer in layers]
        ax, ay, wx, wy, px, py = (column.view(-1, 1, 1) for column in self._tensor(np.stack(bends)).unbind(1))
        return ax * torch.sin(wx * y + px), ay * torch.sin(wy * x + py)

    def _windows(self, layers: Sequence[Layer], size: int) -> Tensor:
        windows = [layer.window for layer in layers if layer.window is not None]
        x1, y1, x2, y2 = (column.view(-1, 1, 1) for column in self._tensor(np.stack(windows)).unbind(1))
        axis = torch.arange(size, device=self.device, dtype=torch.float32) + 0.5
        x, y = axis.view(1, 1, -1), axis.view(1, -1, 1)
        return ((x >= x1) & (x < x2) & (y >= y1) & (y < y2)).float()

    def _soft_masks(self, layers: Sequence[Layer], size: int) -> Tensor:
        covers = [layer.cover for layer in layers if layer.cover is not None]
        x, y, w, h = (column.view(-1, 1, 1) for column in self._tensor(np.stack([cover.box for cover in covers])).unbind(1))
        power, softness = (self._tensor([getattr(cover, name) for cover in covers]).view(-1, 1, 1) for name in ("power", "softness"))
        axis = torch.arange(size, device=self.device, dtype=torch.float32) + 0.5
        across = ((axis.view(1, 1, -1) - (x + w / 2)).abs() / (w / 2).clamp(min=1)) ** power
        down = ((axis.view(1, -1, 1) - (y + h / 2)).abs() / (h / 2).clamp(min=1)) ** power
        return ((1 - (across + down) ** (1 / power)) / softness + 0.5).clamp(0, 1)


def _part(images: Tensor, which: Sequence[int], change: Callable[[Tensor], Tensor]) -> None:
    """Replace images[which] by what `change` makes of them."""
    if which:
        index = torch.as_tensor(which, device=images.device)
        images.index_copy_(0, index, change(images.index_select(0, index)))


def _those(values: Iterable[object]) -> list[int]:
    return [index for index, value in enumerate(values) if value]


def _see(images: Tensor, looks: Sequence[Look]) -> Tensor:
    """BGR images [B, 3, S, S] of whole numbers in [0, 255], each through its look."""
    device = images.device

    def column(values: Sequence[object]) -> Tensor:
        return torch.as_tensor(np.asarray(values, np.float32)).to(device).view(-1, 1, 1, 1)

    _part(images, _those(look.flip for look in looks), lambda part: part.flip(-1))
    hues = _those(look.hue for look in looks)
    _part(images, hues, lambda part: _turn_hue(part, column([2 * round(looks[index].hue / 2) for index in hues])))
    _part(images, _those(look.grey for look in looks), lambda part: _grey(part).expand_as(part))
    tables = [index for index, look in enumerate(looks) if look.table is not None]
    if tables:
        values = torch.from_numpy(np.stack([look.table for look in looks if look.table is not None])).to(device).float().transpose(1, 2)
        _part(images, tables, lambda part: values.gather(2, part.long().flatten(2)).view_as(part))
    faded = _those(look.saturation != 1 for look in looks)
    amount = column([looks[index].saturation for index in faded])
    _part(images, faded, lambda part: (amount * part + (1 - amount) * _grey(part)).round_().clamp_(0, 255))
    blurred = _those(look.blur for look in looks)
    kernels = [blur_kernel(blur, _BLUR) for look in looks if (blur := look.blur)]
    _part(images, blurred, lambda part: _blur(part, torch.from_numpy(np.stack(kernels)).to(device)))
    small = _those(look.small for look in looks)
    _part(images, small, lambda part: lower_resolution(part, [looks[i].small or 0 for i in small], [looks[i].quality for i in small]))
    noisy = _those(look.noise for look in looks)
    _part(images, noisy, lambda part: (part + _noise(part, [look.noise for look in looks if look.noise])).clamp_(0, 255).floor_())
    return images


def _grey(images: Tensor) -> Tensor:
    weights = torch.tensor(_GREY, device=images.device).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True).round_()


def _turn_hue(images: Tensor, degrees: Tensor) -> Tensor:
    """Through HSV and back (hexcone, as OpenCV)."""
    blue, green, red = images.unbind(1)
    value = images.amax(1)
    chroma = value - images.amin(1)
    safe = chroma.clamp(min=1e-6)
    hue = torch.where(
        value == red, (green - blue) / safe, torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    ).unsqueeze(1)
    sector = torch.tensor([1.0, 3.0, 5.0], device=images.device).view(
        1, 3, 1, 1
    )  # blue, green, red: value - chroma max(0, min(k, 4 - k, 1))
    k = (sector + hue + degrees / 60) % 6
    return (value.unsqueeze(1) - chroma.unsqueeze(1) * torch.minimum(k, 4 - k).clamp(0, 1)).round_().clamp_(0, 255)


def _blur(images: Tensor, kernels: Tensor) -> Tensor:
    count, channels = images.shape[:2]
    reach = _BLUR // 2
    flat = pad(images, (reach,) * 4, mode="reflect").flatten(0, 1).unsqueeze(0)
    weights = kernels.repeat_interleave(channels, 0).unsqueeze(1)
    return conv2d(flat, weights, groups=count * channels).view_as(images).round_().clamp_(0, 255)


def _noise(images: Tensor, noises: Sequence[tuple[int, float]]) -> Tensor:
    """A field for each image from its own seed: the same wherever in a batch it stands (another one on another kind of device)."""
    generators = [torch.Generator(images.device).manual_seed(seed) for seed, _ in noises]
    return torch.stack(
        [
            deviation * torch.randn(images.shape[1:], generator=generator, device=images.device)
            for generator, (_, deviation) in zip(generators, noises, strict=True)
        ]
    )
