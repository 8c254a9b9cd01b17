"""The engine for every device: the PyTorch network around the fastest attention kernel there is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

import esat_kernels
from engine.boxes import Box, clip, to_frame
from engine.frames import Frame, flat_pixels, host_frame, matrix_of
from engine.model.network import EsatNetwork
from engine.runners.device import frames_device
from engine.runners.postprocess import Surroundings, hann_window
from engine.runners.preprocess import images, normalise, template_box
from engine.runners.protocol import DTYPES, Observation, Observations
from esat_kernels.crop.geometry import region_around

_PATCH = 16  # pixels a side, of the crops that are made on a device


class Template(NamedTuple):
    """What a frame needs of its target."""

    image: Tensor  # float32 [3, S_z, S_z], normalised
    box: Tensor  # float32 [4], cx, cy, w, h over its side


class TorchRunner:
    """The PyTorch reference network, in fp32 or under autocast to bf16 or fp16."""

    def __init__(self, network: EsatNetwork, device: str, dtype: str):
        self.config = network.config
        self.device = device
        self.dtype = dtype
        self._device = torch.device(device)
        # On a CPU the native crop, of arrays, is faster than PyTorch's of tensors.
        self.frames_on = frames_device(self._device) if self._device.type == "cuda" and self.config.patch_size == _PATCH else None
        self._network = network.to(self._device).eval()
        self._window = hann_window(self.config.search_grid).to(self._device)
        self._surroundings = Surroundings(self.config.search_grid, self._device)

    def encode_template(self, frame: Frame, box: Box, bgr: bool, target: Box | None = None) -> Template:
        """The normalised template crop and the target's box in it."""
        crops, _ = self._crops(frame, [box], self.config.template_factor, self.config.template_size, bgr)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()  # later frames may come on other streams
        return Template(crops[0], template_box(box, self.config, target)[0].to(self._device))

    def observe(self, frame: Frame, boxes: Sequence[Box], templates: Sequence[Template], bgr: bool) -> Observations:
        start = time.perf_counter()
        search, sides = self._crops(frame, boxes, self.config.search_factor, self.config.search_size, bgr)
        cropped = time.perf_counter()
        autocast = torch.autocast(self._device.type, DTYPES[self.dtype], enabled=self.dtype != "fp32")
        with torch.inference_mode(), autocast:
            pictures, targets_in_them = (torch.stack(parts) for parts in zip(*templates, strict=True))
            prediction = self._network(pictures, search, template_box=targets_in_them)
            maps = (prediction.score_map.float(), prediction.size_map.float(), prediction.offset_map.float())
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            ran = time.perf_counter()
            decoded = esat_kernels.decode_maps(*maps, window=self._window)
            rows = torch.cat([decoded.box, decoded.score[:, None], decoded.weighted_score[:, None]], dim=1).tolist()
        features = self._surroundings(prediction.search_features.flatten(2).transpose(1, 2), decoded.cell).cpu().numpy()
        kept = prediction.survivors[-1].cpu().numpy() if prediction.survivors else [None] * len(boxes)
        height, width = frame.shape[:2]
        unclipped = [to_frame((cx, cy, w, h), side, box) for (cx, cy, w, h, _, _), side, box in zip(rows, sides, boxes, strict=True)]
        targets = [
            Observation(clip(one, width, height), one, side, score, weighted, tokens, around)
            for one, side, (*_, score, weighted), tokens, around in zip(unclipped, sides, rows, kept, features, strict=True)
        ]
        end = time.perf_counter()
        timings = {"crop": 1e3 * (cropped - start), "network": 1e3 * (ran - cropped), "decode": 1e3 * (end - ran)}
        return Observations(targets, timings)

    def _crops(self, frame: Frame, boxes: Sequence[Box], factor: float, size: int, bgr: bool) -> tuple[Tensor, list[float]]:
        """The normalised crops, float32 [B, 3, size, size], and the sides of their regions in frame pixels."""
        pixels = flat_pixels(frame)
        if pixels is None:
            arrays = host_frame(frame)
            crops = [esat_kernels.crop_resize(arrays, box, factor, size) for box in boxes]
            return normalise([crop for crop, _ in crops], bgr and matrix_of(frame) is None, self._device), [
                size / scale for _, scale in crops
            ]
        frame_size = torch.tensor(frame.shape[:2], dtype=torch.int32, device=pixels.device)
        rows = torch.empty(len(boxes), (size // _PATCH) ** 2, 3 * _PATCH**2, dtype=torch.float32, device=pixels.device)
        around = torch.tensor(boxes, dtype=torch.float64, device=pixels.device)
        esat_kernels.crop_regions(pixels, frame_size, around, factor, size, rows, bgr, matrix=matrix_of(frame))
        return images(rows, _PATCH), [float(region_around(box, factor).side) for box in boxes]
