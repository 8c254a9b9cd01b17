"""Runners carry out a frame's work, crop + network + decode, for any number of targets. The tracker keeps the state and knows no device.

A further engine implements `Runner` and is added to `engine.runners.choice.make_runner`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from engine.boxes import Box
from engine.config import ModelConfig
from engine.frames import Frame

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# What `Runner.dtype` may be. int8, on a CPU, and fp8, on a GPU, are bf16 with large products in eight bits.
MODES = (*DTYPES, "int8", "fp8")


class Observation(NamedTuple):
    """What one search region shows."""

    box: Box  # in the frame, clipped (`engine.boxes.clip`): what the public loop searches around next
    unclipped: Box  # the same as the network gave it
    region_side: float  # side of the search region in frame pixels
    score: float  # raw score at the chosen cell, 0 to 1
    weighted_score: float  # score times Hann window
    kept_tokens: NDArray[np.int64] | None = None  # positions in the search grid, row by row, that survived every elimination
    features: NDArray[np.float32] | None = None  # [dim], the encoder's search features around the chosen cell, mean of 3 x 3 cells


class Observations(NamedTuple):
    """One frame's result: an observation for each target, and the milliseconds of each stage for all targets together."""

    targets: list[Observation]
    timings_ms: dict[str, float]


class Runner(Protocol):
    """What a tracker needs of an engine. Boxes are x, y, w, h in pixels.

    Frames are what `engine.frames.check_frame` makes of a user's: arrays uint8 [H, W, 3] or `Nv12` of arrays, and for a runner with an attribute
    `frames_on` (a torch.device) tensors there too, which the current stream of that device makes.
    """

    config: ModelConfig
    device: str
    dtype: str

    def encode_template(self, frame: Frame, box: Box, bgr: bool, target: Box | None = None) -> Any:
        """The template of one target: opaque, and valid for this runner only. It shows the region around `box`, in which the target's own box is
        `target`: cx, cy, w, h over the region's side, None for `box` itself."""

    def observe(self, frame: Frame, boxes: Sequence[Box], templates: Sequence[Any], bgr: bool) -> Observations:
        """Look for each template around its box, in one batch."""


def frames_on(runner: Runner) -> tuple[torch.device, ...]:
    """The device, if there is one, on which a runner takes frames where they lie."""
    device = getattr(runner, "frames_on", None)
    return () if device is None else (device,)
