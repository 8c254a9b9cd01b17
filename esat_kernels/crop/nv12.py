"""Frames as video decoders give them: luma, and two chromas for every 2 x 2 pixels.

Colours are OpenCV's `cvtColor(..., COLOR_YUV2RGB_NV12)`: each pixel takes its block's chroma as it is, products are whole numbers of 2^-20.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SHIFT = 20  # bits behind the point of the coefficients


class Matrix(NamedTuple):
    """Whole multiples of 2^-20: red = luma (y - 16) + v_red (v - 128), and so on."""

    luma: int
    v_red: int
    v_green: int
    u_green: int
    u_blue: int


def _matrix(red: float, blue: float) -> Matrix:
    """Of the shares of red and blue in luma, for luma in 16 to 235 and chroma in 16 to 240 (ITU-R BT.709, 3.2 to 3.5)."""
    green, luma, chroma = 1 - red - blue, 255 / 219, 255 / 112
    values = (luma, chroma * (1 - red), -chroma * red * (1 - red) / green, -chroma * blue * (1 - blue) / green, chroma * (1 - blue))
    return Matrix(*(round(value * (1 << SHIFT)) for value in values))


MATRICES = {
    "bt601": Matrix(1220542, 1673527, -852492, -409993, 2116026),  # OpenCV's, to three decimals
    "bt709": _matrix(0.2126, 0.0722),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Nv12:
    """A frame of two planes in limited range (luma 16 to 235).

    luma: uint8 [H, W]. chroma: uint8 [ceil(H / 2), ceil(W / 2), 2], Cb and Cr. Both are NumPy arrays or both PyTorch tensors on one device, with
    rows of any stride. matrix: "bt601" (standard definition) or "bt709" (high definition); the stream's header says which.
    """

    luma: NDArray[np.uint8] | Tensor
    chroma: NDArray[np.uint8] | Tensor
    matrix: str

    @classmethod
    def of_surface(cls, surface: NDArray[np.uint8] | Tensor, matrix: str) -> Nv12:
        """surface: uint8 [3 H / 2, W] with even H and W, the luma's rows above the chroma's, as OpenCV and decoders lay them out."""
        if surface.ndim != 2 or surface.shape[0] % 3 or surface.shape[1] % 2:
            raise ValueError(f"an NV12 surface must be [3 H / 2, W] with even H and W, got {tuple(surface.shape)}")
        height = surface.shape[0] // 3 * 2
        return cls(surface[:height], surface[height:].reshape(height // 2, -1, 2), matrix)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.luma.shape[0], self.luma.shape[1]

    def problem(self) -> str | None:
        """What is wrong with it, or None."""
        planes: tuple[Any, Any] = (self.luma, self.chroma)
        if not (all(isinstance(plane, np.ndarray) for plane in planes) or all(isinstance(plane, Tensor) for plane in planes)):
            kinds = " and ".join(type(plane).__name__ for plane in planes)
            return f"the planes of an Nv12 frame must both be NumPy arrays or both PyTorch tensors, got {kinds}"
        if any(plane.dtype not in (np.uint8, torch.uint8) for plane in planes):
            return f"the planes of an Nv12 frame must be uint8, got {self.luma.dtype} and {self.chroma.dtype}"
        luma, chroma = tuple(self.luma.shape), tuple(self.chroma.shape)
        if len(luma) != 2 or 0 in luma or chroma != (-(-luma[0] // 2), -(-luma[1] // 2), 2):
            return f"an Nv12 frame must have luma [H, W] and chroma [ceil(H / 2), ceil(W / 2), 2], got {luma} and {chroma}"
        if isinstance(self.luma, Tensor) and isinstance(self.chroma, Tensor) and self.luma.device != self.chroma.device:
            return f"the planes of an Nv12 frame must be on one device, got {self.luma.device} and {self.chroma.device}"
        if self.matrix not in MATRICES:
            return f"an Nv12 frame's matrix must be {' or '.join(MATRICES)}, got {self.matrix!r}"
        return None

    def rgb(self) -> NDArray[np.uint8]:
        """A frame of arrays as uint8 [H, W, 3]."""
        luma, chroma = np.asarray(self.luma), np.asarray(self.chroma)
        height, width = self.shape
        pairs = np.repeat(np.repeat(chroma, 2, axis=0), 2, axis=1)[:height, :width].astype(np.int32)
        channels = red_green_blue(luma.astype(np.int32), pairs[..., 0], pairs[..., 1], MATRICES[self.matrix])
        return np.stack(channels, axis=-1).astype(np.uint8)


def red_green_blue(y: Any, u: Any, v: Any, matrix: Matrix) -> tuple[Any, Any, Any]:
    """int32 arrays or tensors of one shape, 0 to 255 -> the three channels, int32, 0 to 255."""
    bright, u, v = (y - 16).clip(0, 255) * matrix.luma + (1 << (SHIFT - 1)), u - 128, v - 128
    sums = (bright + v * matrix.v_red, bright + v * matrix.v_green + u * matrix.u_green, bright + u * matrix.u_blue)
    return tuple((value >> SHIFT).clip(0, 255) for value in sums)
