"""Memory for one frame, on the device or in front of it on the host, and what has to be copied from one to the other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.boxes import Box
from engine.frames import Frame, planes_of
from esat_kernels.crop.geometry import region_around

_HEADER = 256  # bytes in front of the pixels: height and width, and pixels that start at a multiple of what a kernel reads at once
_LEAST_CAPACITY = 1920 * 1080 * 3  # bytes of pixels for which memory is there from the start

Copies = list[tuple[Tensor, Tensor]]  # source and destination


class Rows(NamedTuple):
    """Rows `first` to `end` - 1 of a frame."""

    first: int
    end: int


class FrameMemory:
    """One frame: uint8 [header + capacity], height and width as int32 in front of the pixels, rows and planes without gaps."""

    def __init__(self, memory: Tensor):
        self.memory = memory
        self.size = memory[:8].view(torch.int32)  # [2]
        self.pixels = memory[_HEADER:]
        self._shape: tuple[int, int] | None = None  # what `size` holds once the copies of `bring` are done

    @staticmethod
    def bytes_for(capacity: int) -> int:
        """The length of the memory for so many bytes of pixels."""
        return _HEADER + max(capacity, _LEAST_CAPACITY)

    @staticmethod
    def capacity_of(length: int) -> int:
        """The bytes of pixels in a memory of this length."""
        return length - _HEADER

    def fill(self, frame: NDArray[np.uint8]) -> int:
        """Write a frame [H, W, 3] of any strides (memory of the host only). Returns the bytes of `memory` that are in use."""
        height, width, _ = frame.shape
        self.size[0], self.size[1] = height, width
        count = 3 * height * width
        np.copyto(self.pixels[:count].numpy().reshape(height, width, 3), frame)
        return _HEADER + count

    def bring(self, frame: Frame, staging: FrameMemory, rows: Rows | None = None) -> Copies:
        """The copies that bring a frame here, or of its pixels these rows alone. Arrays go through `staging`, tensors are read where they lie.

        The host writes into `staging`: what was handed out before must have been copied.
        """
        height, width = frame.shape[:2]
        first, end = rows or (0, height)
        copies: Copies = []
        if self._shape != (height, width):
            staging.size[0], staging.size[1] = height, width
            copies.append((staging.size, self.size))
            self._shape = (height, width)
        start = 0
        for plane, step in _planes(frame):
            shape = tuple(plane.shape)
            count = int(np.prod(shape))
            part, area = slice(first // step, -(-end // step)), slice(start, start + count)
            start += count
            if part.start >= part.stop:
                continue
            target = self.pixels[area].view(shape)[part]
            if isinstance(plane, Tensor):
                copies.append((plane[part], target))
            else:
                waiting = staging.pixels[area].view(shape)[part]
                np.copyto(waiting.numpy(), plane[part])
                copies.append((waiting, target))
        return copies


def bytes_of(frame: Frame) -> int:
    """Of a frame's pixels."""
    return sum(int(np.prod(plane.shape)) for plane, _ in _planes(frame))


def tensors_of(frame: Frame) -> list[Tensor]:
    """The tensors that a frame consists of; none of arrays."""
    return [plane for plane, _ in _planes(frame) if isinstance(plane, Tensor)]


def rows_read(boxes: Iterable[Box], factor: float, height: int) -> Rows:
    """The rows of a frame of this height that crops around these boxes may read; a box that is not finite gives a black crop, and reads none."""
    parts = []
    for box in boxes:
        try:
            region = region_around(box, factor)
        except (ValueError, OverflowError):
            continue
        parts.append((max(region.top, 0), min(region.top + region.side, height)))
    parts = [part for part in parts if part[0] < part[1]]
    return Rows(min(part[0] for part in parts), max(part[1] for part in parts)) if parts else Rows(0, 0)


def _planes(frame: Frame) -> list[tuple[NDArray[np.uint8] | Tensor, int]]:
    """A frame's planes in the order in which they lie in memory, and how many of the frame's rows one row of each stands for."""
    return list(zip(planes_of(frame), (1, 2), strict=False))
