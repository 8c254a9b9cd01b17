"""The GPU engine behind the `Runner` protocol: boxes come from the host, a frame is one graph, and the host reads once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import esat_kernels
from engine.boxes import Box
from engine.config import ModelConfig
from engine.errors import DeviceError
from engine.frames import Frame, matrix_of
from engine.runners.device import frames_device
from engine.runners.gpu.cuda import streams_for
from engine.runners.gpu.frame import RECORD, FramePlan, FrameResult, crop_template
from engine.runners.gpu.memory import Copies, FrameMemory, bytes_of, rows_read, tensors_of
from engine.runners.gpu.network import GpuNetwork, Kernels, Template
from engine.runners.gpu.streams import Mark, Streams
from engine.runners.protocol import DTYPES, Observation, Observations
from engine.weights.io import Weights

BACKENDS = ("triton", "cuda", "reference")
_MAX_SEARCH_TOKENS = 4096  # of select_tokens


def unsupported(config: ModelConfig, backend: str, dtype: str = "bf16", device: str = "cpu") -> str | None:
    """Why the engine cannot run this model with the kernels of `backend` ("triton", "cuda" or "reference") in `dtype` here, or None."""
    if backend not in BACKENDS:
        return f"the GPU engine's kernels are {', '.join(BACKENDS)}, not {backend}"
    if backend != "reference":
        reason = esat_kernels.backends()[backend]
        if reason is None and backend == "cuda" and find_spec("triton") is None:
            reason = "the operations around attention need Triton, which is not installed"
        if reason is not None:
            return reason
    if config.patch_size != 16:
        return f"needs patches of 16 x 16 pixels, got {config.patch_size}"
    if config.num_search > _MAX_SEARCH_TOKENS:
        return f"needs at most {_MAX_SEARCH_TOKENS} search tokens, got {config.num_search}"
    if dtype == "fp8":
        return esat_kernels.fp8_unsupported(torch.device(device), config.dim, int(config.dim * config.mlp_ratio))
    if dtype not in DTYPES:
        return f"the GPU engine computes in {', '.join(DTYPES)} and fp8, not in {dtype}"
    return None


class GpuRunner:
    """One model on one device. `device` may be a CPU too (with the reference kernels): the engine is then a slow but complete copy of itself.

    The first frame of each number of targets captures a graph, later ones replay it, whatever their templates and sizes; only a frame that
    is larger than all before (and than 1920 x 1080) captures again. Of a frame on the host only the rows that the crops read are sent to the
    device; a tensor that lies there is copied there. Calls from several threads wait for each other. In fp32 the head's
    convolutions are as exact as `torch.backends.cudnn.allow_tf32` says when a graph is captured: by PyTorch's default, ten bits.
    """

    def __init__(self, weights: Weights, device: str, dtype: str, backend: str, streams: Streams | None = None):
        self.config = weights.config
        self.device, self.dtype = device, dtype
        self.frames_on = frames_device(torch.device(device))
        reason = unsupported(weights.config, backend, dtype, device)
        if reason is not None:
            raise DeviceError(f"the GPU engine with backend {backend!r} cannot run: {reason}")
        self.streams = streams or streams_for(torch.device(device))
        self.network = GpuNetwork(weights, torch.device(device), DTYPES.get(dtype, torch.bfloat16), Kernels.of(backend), dtype == "fp8")
        self._plans: dict[int, _HostPlan] = {}
        self._templates = _TemplateFrames(self.network, self.streams)
        self._lock = threading.Lock()
        self.streams.synchronize()  # the weights have arrived

    def encode_template(self, frame: Frame, box: Box, bgr: bool, target: Box | None = None) -> Template:
        """The template's tokens and their first q, k, v, on the device."""
        with self._lock:
            return self._templates.encode(frame, box, bgr, target)

    def observe(self, frame: Frame, boxes: Sequence[Box], templates: Sequence[Template], bgr: bool) -> Observations:
        with self._lock:
            plan = self._plans.get(len(boxes))
            if plan is None:
                plan = self._plans[len(boxes)] = _HostPlan(self.network, self.streams, len(boxes))
            return plan.observe(frame, boxes, templates, bgr)


class _TemplateFrames:
    """The frames that templates are cut from, in memory of their own."""

    def __init__(self, network: GpuNetwork, streams: Streams):
        self._network, self._streams = network, streams
        self._capacity = 0

    def encode(self, frame: Frame, box: Box, bgr: bool, target: Box | None) -> Template:
        size = bytes_of(frame)
        if size > self._capacity or self._capacity == 0:
            length = FrameMemory.bytes_for(size)
            self._capacity = FrameMemory.capacity_of(length)
            self._staging = FrameMemory(self._streams.staging(length, torch.uint8))
            self._streams.run("compute", lambda: self._allocate(length)).wait()
        matrix = matrix_of(frame)
        rows = rows_read([box], self._network.config.template_factor, frame.shape[0])
        uploaded = upload(self._streams, self._frame.bring(frame, self._staging, rows), tensors_of(frame))
        made: list[Template] = []
        done = self._streams.run(
            "compute", lambda: made.append(crop_template(self._network, self._frame, box, bgr, matrix, target)), after=[uploaded]
        )
        done.wait()
        return made[0]

    def _allocate(self, length: int) -> None:
        self._frame = FrameMemory(torch.zeros(length, dtype=torch.uint8, device=self._network.device))


class _HostPlan:
    """A plan whose boxes come from the host, with the host's side of every copy."""

    def __init__(self, network: GpuNetwork, streams: Streams, batch: int):
        self._streams = streams
        self._search_factor = network.config.search_factor
        self._plan = FramePlan(network, streams, [batch])
        self._staging = self._plan.staging()
        self._boxes = streams.staging(4 * batch, torch.float64).view(batch, 4)
        self._record = streams.staging(RECORD * batch, torch.float64).view(batch, RECORD)
        tokens = network.config.search_tokens_per_layer()[-1]
        self._kept = streams.staging(batch * tokens, torch.int64).view(batch, tokens)
        self._has_kept = False
        self._features = streams.staging(batch * network.config.dim, torch.float32).view(batch, -1)
        self._templates: list[Template | None] = [None] * batch

    def observe(self, frame: Frame, boxes: Sequence[Box], templates: Sequence[Template], bgr: bool) -> Observations:
        start = time.perf_counter()
        if bytes_of(frame) > self._staging.pixels.numel():
            self._plan.reserve(bytes_of(frame))
            self._staging = self._plan.staging()
        rows = rows_read(boxes, self._search_factor, frame.shape[0])
        uploaded = upload(self._streams, self._plan.frames[0][0].bring(frame, self._staging, rows), tensors_of(frame))
        execute = self._plan.executable(0, bgr, matrices=(matrix_of(frame),))
        self._boxes.copy_(torch.tensor(boxes, dtype=torch.float64))
        given = time.perf_counter()
        self._streams.run("compute", lambda: self._frame(execute, templates), after=[uploaded]).wait()
        ran = time.perf_counter()
        kept = self._kept.numpy() if self._has_kept else [None] * len(boxes)
        found = [
            observation(row, features.copy(), None if tokens is None else tokens.copy())
            for row, features, tokens in zip(self._record.tolist(), self._features.numpy(), kept, strict=True)
        ]
        end = time.perf_counter()
        # Crop and decode are parts of the graph; what the host can time apart is its copy of the frame.
        return Observations(found, {"crop": 1e3 * (given - start), "network": 1e3 * (ran - given), "decode": 1e3 * (end - ran)})

    def _frame(self, execute: Callable[[], FrameResult], templates: Sequence[Template]) -> None:
        self._plan.boxes.copy_(self._boxes, non_blocking=True)
        for index, template in enumerate(templates):
            if self._templates[index] is not template:
                self._plan.set_template(index, template)
                self._templates[index] = template
        result = execute()
        self._record.copy_(result.record, non_blocking=True)
        self._features.copy_(result.features, non_blocking=True)
        self._has_kept = result.kept is not None
        if result.kept is not None:
            self._kept.copy_(result.kept, non_blocking=True)


def upload(streams: Streams, copies: Copies, tensors: Sequence[Tensor], *after: Mark) -> Mark:
    """Give copies of frames to the upload queue, behind `after`, and behind the caller's own work where that makes `tensors` among the frames."""

    def copy() -> None:
        for source, target in copies:
            target.copy_(source, non_blocking=True)

    return streams.run("upload", copy, after=[*after, streams.caller()] if tensors else after)


def observation(record: Sequence[float], features: NDArray[np.float32], kept: NDArray[np.int64] | None = None) -> Observation:
    """What a row of `FrameResult.record` says. Its box is the device's to the last bit."""
    x, y, w, h, score, weighted, side, _, *unclipped = record
    return Observation((x, y, w, h), tuple(unclipped), side, score, weighted, kept, features)  # type: ignore[arg-type]
