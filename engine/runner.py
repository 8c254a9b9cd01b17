"""Runners carry out a frame's work, crop + network + decode, for any number of targets. The tracker keeps the state and knows no device.

A further engine implements `Runner` and is added to `make_runner`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import esat_kernels
from engine.config import ModelConfig
from engine.errors import ConfigError, DeviceError
from engine.model.network import EsatNetwork
from engine.postprocess import hann_window
from engine.preprocess import Box, normalise
from engine.weights.io import Weights

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Observation(NamedTuple):
    """What one search region shows."""

    box: Box  # cx, cy, w, h over the region's side
    region_side: float  # side of the search region in frame pixels
    score: float  # raw score at the chosen cell, 0 to 1
    weighted_score: float  # score times Hann window
    kept_tokens: NDArray[np.int64] | None = None  # positions in the search grid, row by row, that survived every elimination


class Observations(NamedTuple):
    """One frame's result: an observation for each target, and the milliseconds of each stage for all targets together."""

    targets: list[Observation]
    timings_ms: dict[str, float]


class Runner(Protocol):
    """What a tracker needs of an engine. Frames are uint8 [H, W, 3]; boxes are x, y, w, h in pixels."""

    config: ModelConfig
    device: str
    dtype: str

    def encode_template(self, frame: NDArray[np.uint8], box: Box, bgr: bool) -> Any:
        """The template of one target: opaque, and valid for this runner only."""

    def observe(self, frame: NDArray[np.uint8], boxes: Sequence[Box], templates: Sequence[Any], bgr: bool) -> Observations:
        """Look for each template around its box, in one batch."""


class TorchRunner:
    """The PyTorch reference network, in fp32 or under autocast to bf16 or fp16."""

    def __init__(self, network: EsatNetwork, device: str, dtype: str):
        self.config = network.config
        self.device = device
        self.dtype = dtype
        self._device = torch.device(device)
        self._network = network.to(self._device).eval()
        self._window = hann_window(self.config.search_grid).to(self._device)

    def encode_template(self, frame: NDArray[np.uint8], box: Box, bgr: bool) -> Tensor:
        """The normalised template crop, float32 [3, S_z, S_z]."""
        crop, _ = esat_kernels.crop_resize(frame, box, self.config.template_factor, self.config.template_size)
        return normalise([crop], bgr, self._device)[0]

    def observe(self, frame: NDArray[np.uint8], boxes: Sequence[Box], templates: Sequence[Tensor], bgr: bool) -> Observations:
        start = time.perf_counter()
        size = self.config.search_size
        crops = [esat_kernels.crop_resize(frame, box, self.config.search_factor, size) for box in boxes]
        search = normalise([crop for crop, _ in crops], bgr, self._device)
        cropped = time.perf_counter()
        autocast = torch.autocast(self._device.type, DTYPES[self.dtype], enabled=self.dtype != "fp32")
        with torch.inference_mode(), autocast:
            prediction = self._network(torch.stack(list(templates)), search)
            maps = (prediction.score_map.float(), prediction.size_map.float(), prediction.offset_map.float())
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            ran = time.perf_counter()
            decoded = esat_kernels.decode_maps(*maps, window=self._window)
            rows = torch.cat([decoded.box, decoded.score[:, None], decoded.weighted_score[:, None]], dim=1).tolist()
        kept = prediction.survivors[-1].cpu().numpy() if prediction.survivors else [None] * len(boxes)
        targets = [
            Observation((cx, cy, w, h), size / factor, score, weighted, tokens)
            for (cx, cy, w, h, score, weighted), (_, factor), tokens in zip(rows, crops, kept, strict=True)
        ]
        end = time.perf_counter()
        timings = {"crop": 1e3 * (cropped - start), "network": 1e3 * (ran - cropped), "decode": 1e3 * (end - ran)}
        return Observations(targets, timings)


def make_runner(weights: Weights, device: str = "auto", dtype: str = "auto", backend: str = "auto") -> Runner:
    """The fastest runner for this machine.

    device: "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:N". dtype: "auto", "fp32", "bf16" or "fp16";
    "auto" is bf16 on CUDA and where the CPU engine runs (processors with AMX tiles), otherwise fp32.
    backend: the attention kernel's, "auto" for the fastest. DeviceError or ConfigError if what was named is not there.
    """
    device = resolve_device(device)
    amx_missing = _amx_missing(weights.config, device, backend)
    if dtype == "auto":
        dtype = "bf16" if device.startswith("cuda") or amx_missing is None else "fp32"
    if dtype not in DTYPES:
        raise ConfigError(f"dtype must be auto, {', '.join(DTYPES)}, got {dtype!r}")
    reason = None if backend == "auto" else esat_kernels.backends().get(backend, "there is no such backend")
    if reason is not None:
        raise DeviceError(f"attention backend {backend!r} cannot run here: {reason}")
    if dtype == "bf16" and amx_missing is None:
        from engine.cpu.runner import CpuRunner

        return CpuRunner(weights)
    return TorchRunner(weights.model(backend), device, dtype)


def _amx_missing(config: ModelConfig, device: str, backend: str) -> str | None:
    """Why the AMX engine is not to be used, or None."""
    if device != "cpu" or backend not in ("auto", "cpu"):
        return "another device or backend was asked for"
    from engine.cpu.network import unsupported

    return unsupported(config)


def resolve_device(device: str) -> str:
    """ "auto" as the device it stands for; DeviceError for one that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise DeviceError(f"device must be auto, cpu, cuda or cuda:N, got {device!r}")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(number or 0) >= count:
            raise DeviceError(f"device {device!r} asked for, but PyTorch {torch.__version__} sees {count} CUDA devices: use --device cpu")
    return device
