"""The CPU engine behind the `Runner` protocol: native crop, native network, box."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import torch

import esat_kernels
from engine.boxes import Box, clip, to_frame
from engine.frames import Frame, host_frame
from engine.runners.cpu.network import CpuNetwork, Template, unsupported
from engine.runners.preprocess import template_box
from engine.runners.protocol import Observation, Observations
from engine.weights.io import Weights

__all__ = ["CpuRunner", "unsupported"]


class CpuRunner:
    """One model on the native kernels, in fp32, bf16 or int8. Targets of a frame run one after the other: a single one fills the machine.

    Calls from several threads wait for each other, since they share the buffers.
    """

    def __init__(self, weights: Weights, dtype: str):
        self.config = weights.config
        self.device = "cpu"
        self.dtype = dtype
        self.network = CpuNetwork(weights, dtype)
        self._lock = threading.Lock()

    def encode_template(self, frame: Frame, box: Box, bgr: bool, target: Box | None = None) -> Template:
        """The template's tokens and their first q, k, v."""
        config = self.config
        patches = torch.empty(config.num_template, 3 * config.patch_size**2, dtype=self.network.dtype, device="cpu")
        esat_kernels.crop_patches(host_frame(frame), box, config.template_factor, config.template_size, patches, bgr)
        with self._lock:
            return self.network.encode_template(patches, template_box(box, config, target))

    def observe(self, frame: Frame, boxes: Sequence[Box], templates: Sequence[Template], bgr: bool) -> Observations:
        config = self.config
        arrays = host_frame(frame)
        height, width = arrays.shape[:2]
        targets = []
        crop_s = network_s = 0.0
        for box, template in zip(boxes, templates, strict=True):
            with self._lock:
                start = time.perf_counter()
                factor = esat_kernels.crop_patches(arrays, box, config.search_factor, config.search_size, self.network.patches, bgr)
                cropped = time.perf_counter()
                found = self.network.run(template)
                kept = self.network.survivors[-1].numpy() if self.network.survivors else None
                end = time.perf_counter()
            side = config.search_size / factor
            unclipped = to_frame(found.box, side, box)
            targets.append(
                Observation(
                    clip(unclipped, width, height), unclipped, side, found.score, found.weighted_score, kept, found.features.numpy()
                )
            )
            crop_s += cropped - start
            network_s += end - cropped
        # The box is read inside the network: the offset and size branches run at its cell only.
        return Observations(targets, {"crop": 1e3 * crop_s, "network": 1e3 * network_s, "decode": 0.0})
