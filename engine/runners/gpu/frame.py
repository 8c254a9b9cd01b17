"""All memory of a frame on the device, and the frame itself: crop, network, next boxes, without the host."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

import esat_kernels
from engine.boxes import Box
from engine.runners.gpu.head import Maps
from engine.runners.gpu.memory import FrameMemory
from engine.runners.gpu.network import GpuNetwork, Template
from engine.runners.gpu.streams import Streams
from engine.runners.postprocess import hann_window
from engine.runners.preprocess import template_box

RECORD = 12  # values of a target in a frame's record
Matrices = tuple[str | None, ...]
IDLE_BOX = (0.0, 0.0, 16.0, 16.0)  # of a slot without a target


class FrameResult(NamedTuple):
    """What a frame leaves on the device. The tensors are the same ones after every replay."""

    record: Tensor  # float64 [B, RECORD], see `esat_kernels.advance_boxes`
    kept: Tensor | None  # int64 [B, n], search positions that survived; None without elimination
    features: Tensor  # float32 [B, dim], the encoder's features around the chosen cell
    maps: Maps


class FramePlan:
    """The static memory for a fixed arrangement of targets, and the captured frames that work on it.

    targets: the number of targets in each video stream; they lie one stream after the other in the batch. slots: frames of each video stream
    that have memory at the same time, each with a captured frame of its own; boxes and templates are common to them. beside: room for a second
    region of each target; those of targets 0, 1, .. are the rows `batch`, `batch` + 1, .. and take part only in frames that ask for them.
    """

    def __init__(self, network: GpuNetwork, streams: Streams, targets: Sequence[int], slots: int = 1, beside: bool = False):
        self.targets, self.slots = tuple(targets), slots
        self.batch = sum(self.targets)
        self.rows = self.batch * (2 if beside else 1)
        self.captures = 0  # how often a frame has been captured
        self._network, self._streams = network, streams
        self._captured: dict[tuple[int, bool, bool, Matrices], Callable[[], FrameResult]] = {}
        self._capacity = 0
        self.frames: list[list[FrameMemory]] = []  # [slot][video stream]

        def allocate() -> None:
            config, device = network.config, network.device
            self.boxes = torch.tensor([IDLE_BOX] * self.rows, dtype=torch.float64, device=device)
            self._patches = torch.zeros(self.rows, config.num_search, network.patch_values, device=device, dtype=network.dtype)
            self._inputs = network.inputs(self.rows)
            self._window = hann_window(config.search_grid).to(device)

        streams.run("compute", allocate).wait()
        self.reserve(0)

    def reserve(self, size: int) -> None:
        """Make room for frames of `size` bytes of pixels. Where there was less, the host waits, and frames are captured anew."""
        if self.frames and size <= self._capacity:
            return
        self._streams.synchronize()
        self._captured.clear()
        length = FrameMemory.bytes_for(size)
        self._capacity = FrameMemory.capacity_of(length)

        def allocate() -> None:
            self.frames = [
                [FrameMemory(torch.zeros(length, dtype=torch.uint8, device=self._network.device)) for _ in self.targets]
                for _ in range(self.slots)
            ]

        self._streams.run("compute", allocate).wait()

    def staging(self) -> FrameMemory:
        """Memory of the host for one frame."""
        return FrameMemory(self._streams.staging(FrameMemory.bytes_for(self._capacity), torch.uint8))

    def set_template(self, index: int, template: Template) -> None:
        """Copy a target's template to its slot in the batch (work of the compute queue)."""
        count = self._network.config.num_template
        for part, value in zip(self._inputs, template, strict=True):
            for row in range(index, self.rows, self.batch):
                part[row, :count].copy_(value)

    def executable(self, slot: int, bgr: bool, beside: bool = False, matrices: Matrices = ()) -> Callable[[], FrameResult]:
        """The frame of a slot, captured at the first call; to be called by the compute queue. beside: with the second regions.

        matrices: for each video stream, the matrix of its `Nv12` frame or None; empty for none.
        """
        key = (slot, bgr, beside, matrices if any(matrices) else ())
        if key not in self._captured:
            self._captured[key] = self._streams.capture(lambda: self.step(*key), (self.boxes,))
            self.captures += 1
        return self._captured[key]

    @torch.no_grad()
    def step(self, slot: int, bgr: bool, beside: bool = False, matrices: Matrices = ()) -> FrameResult:
        """One frame: the boxes become the next boxes. Nothing is read by the host."""
        config, operations = self._network.config, self._network.kernels.operations
        crop = (config.search_factor, config.search_size)
        rows = self.batch * (2 if beside else 1)
        bounds = list(itertools.pairwise([0, *itertools.accumulate(self.targets)]))
        parts = [slice(first + start, first + end) for first in range(0, rows, self.batch) for start, end in bounds]
        frames = self.frames[slot] * (rows // self.batch)
        matrices = (matrices or (None,) * len(self.targets)) * (rows // self.batch)
        with torch.profiler.record_function("crop"):
            regions = [
                esat_kernels.crop_regions(
                    frame.pixels, frame.size, self.boxes[part], *crop, out=self._patches[part], bgr=bgr, backend=operations, matrix=matrix
                )
                for frame, part, matrix in zip(frames, parts, matrices, strict=True)
            ]
        maps, kept, features = self._network.run(self._patches[:rows], Template(*(part[:rows] for part in self._inputs)))
        with torch.profiler.record_function("decode"):
            advanced = [
                esat_kernels.advance_boxes_with_features(
                    *(maps.score[part], maps.size[part], maps.offset[part], self._window, region, self.boxes[part], frame.size),
                    features[part],
                    backend=operations,
                )
                for frame, part, region in zip(frames, parts, regions, strict=True)
            ]
        record, around = advanced[0] if len(advanced) == 1 else (torch.cat(results) for results in zip(*advanced, strict=True))
        return FrameResult(record, kept, around, maps)


def crop_template(
    network: GpuNetwork, frame: FrameMemory, box: Box, bgr: bool, matrix: str | None = None, target: Box | None = None
) -> Template:
    """The template of a target in a frame that lies on the device (work of the compute queue). target: see `Runner.encode_template`."""
    config = network.config
    patches = torch.empty(1, config.num_template, network.patch_values, device=network.device, dtype=network.dtype)
    boxes = torch.tensor([box], dtype=torch.float64).to(network.device)
    with torch.no_grad():
        esat_kernels.crop_regions(
            frame.pixels, frame.size, boxes, config.template_factor, config.template_size, patches, bgr, network.kernels.operations, matrix
        )
        return network.encode_template(patches[0], template_box(box, config, target))
