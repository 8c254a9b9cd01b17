"""Display matrices: how a stored picture is to be turned and flipped before it is shown."""

from __future__ import annotations

import struct

import numpy as np


def is_sideways(matrix: bytes | None) -> bool:
    """Whether the matrix exchanges width and height."""
    if matrix is None:
        return False
    a, b, c, d = _linear(matrix)
    return abs(b) + abs(c) > abs(a) + abs(d)


def turned(quarters: int) -> bytes | None:
    """The matrix of so many quarter turns counterclockwise, 0 to 3."""
    a, b = ((1, 0), (0, -1), (-1, 0), (0, 1))[quarters]
    return struct.pack("=9i", a << 16, b << 16, 0, -b << 16, a << 16, 0, 0, 0, 1 << 30) if quarters else None


def upright(image: np.ndarray, matrix: bytes | None) -> np.ndarray:
    """`image` [H, W, ...] as it is to be shown, contiguous; quarter turns and flips in any combination, other angles to the nearest of them.

    matrix: nine int32 of this machine's byte order, as FFmpeg gives them (AV_FRAME_DATA_DISPLAYMATRIX): a point (x, y) of the picture is
    shown at (a x + c y, b x + d y), up to a shift. None: as it is.
    """
    if matrix is None:
        return image
    a, b, c, d = _linear(matrix)
    if abs(b) + abs(c) > abs(a) + abs(d):
        image = image.swapaxes(0, 1)
        a, d = c, b
    image = image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(image)


def _linear(matrix: bytes) -> tuple[int, int, int, int]:
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)
    return a, b, c, d
