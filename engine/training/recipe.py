"""What a training crop shows, as numbers: drawn by `engine.training.pairs`, carried out by `paint_cpu` (OpenCV) or `paint_device` (PyTorch)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Ellipse:
    """A soft cover: 1 inside (|dx| / a)^power + (|dy| / b)^power < 1 for the box x, y, w, h in crop pixels, falling off at its border."""

    box: np.ndarray
    power: float

    @property
    def softness(self) -> float:
        """Width of the border, as a part of the radius."""
        return max(2.0 / max(float(min(self.box[2:])), 4.0), 0.06)


@dataclasses.dataclass(frozen=True)
class Bend:
    """An elastic change: what lies at crop position p + d(p) is shown at p, d = amount * sin(wave * (y, x) + phase), pixels and radians."""

    amount: np.ndarray  # [2], x and y
    wave: np.ndarray  # [2], radians a pixel along the other axis
    phase: np.ndarray  # [2]

    def offset(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """d at crop positions (pixel centres at whole numbers)."""
        return (
            self.amount[0] * np.sin(self.wave[0] * y + self.phase[0]),
            self.amount[1] * np.sin(self.wave[1] * x + self.phase[1]),
        )

    def shown(self, points: np.ndarray) -> np.ndarray:
        """Where points [n, 2] of the unbent crop are shown: p + d(p) = point, by iteration (|amount * wave| < 1 makes it converge)."""
        found = points.copy()
        for _ in range(30):
            found = points - np.stack(self.offset(found[:, 0], found[:, 1]), 1)
        return found


@dataclasses.dataclass(frozen=True)
class Layer:
    """A picture laid over what is below it."""

    pictures: Sequence[np.ndarray]  # with `index` the picture's name
    index: int
    image: np.ndarray  # the picture itself: uint8 BGR [H, W, 3]
    matrix: np.ndarray  # [2, 3], picture pixels -> crop pixels (pixel centres at whole numbers)
    cover: Ellipse | None = None  # None: everywhere
    only_inside: bool = False  # where the picture ends, what is below shows (else black)
    bend: Bend | None = None
    window: np.ndarray | None = None  # x1, y1, x2, y2 in crop pixels: outside of it what is below shows


@dataclasses.dataclass(frozen=True)
class Blur:
    """A Gaussian of `sigma` pixels, or, if `length` > 0, motion over `length` (odd) pixels along `angle` (radians)."""

    sigma: float = 0.0
    length: int = 0
    angle: float = 0.0


@dataclasses.dataclass(frozen=True)
class Look:
    """What the camera does to a crop, in the order of the fields."""

    flip: bool = False
    hue: float = 0.0  # degrees by which all hues turn
    grey: bool = False
    table: np.ndarray | None = None  # uint8 [256, 3]: new values of blue, green, red
    saturation: float = 1.0
    blur: Blur | None = None
    small: int | None = None  # side in pixels to which the crop is shrunk before it is enlarged again
    quality: int | None = None  # of JPEG, applied to the shrunk crop
    noise: tuple[int, float] | None = None  # seed and standard deviation in grey levels


@dataclasses.dataclass(frozen=True)
class Crop:
    """`layers` from the bottom to the top on a black square of `size` pixels, seen as `look` says."""

    size: int
    layers: tuple[Layer, ...]
    look: Look


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One pair; `box` is the target's in the search crop, `template_box` in the template: cx, cy, w, h over the side. If it is not `present`, `box`
    says nothing."""

    template: Crop
    search: Crop
    box: np.ndarray
    template_box: np.ndarray
    present: bool = True


def blur_kernel(blur: Blur, side: int = 15) -> np.ndarray:
    """float32 [side, side], sum 1."""
    axis = np.arange(side, dtype=np.float32) - side // 2
    if blur.length == 0:
        profile = np.exp(-(axis**2) / (2 * blur.sigma**2))
        kernel = np.outer(profile, profile)
    else:
        kernel = np.zeros((side, side), np.float32)
        for part in np.linspace(-1, 1, 4 * side + 1):
            reach = part * (blur.length // 2)
            kernel[side // 2 + round(reach * np.sin(blur.angle)), side // 2 + round(reach * np.cos(blur.angle))] = 1
    return (kernel / kernel.sum()).astype(np.float32)
