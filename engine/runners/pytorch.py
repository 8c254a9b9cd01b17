"""The engine for every device: the PyTorch network around the fastest attention kernel there is."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import esat_kernels
from engine.boxes import Box, clip, to_frame
from engine.model.network import EsatNetwork
from engine.runners.postprocess import Surroundings, hann_window
from engine.runners.preprocess import normalise
from engine.runners.protocol import DTYPES, Observation, Observations


class TorchRunner:
    """The PyTorch reference network, in fp32 or under autocast to bf16 or fp16."""

    def __init__(self, network: EsatNetwork, device: str, dtype: str):
        self.config = network.config
        self.device = device
        self.dtype = dtype
        self._device = torch.device(device)
        self._network = network.to(self._device).eval()
        self._window = hann_window(self.config.search_grid).to(self._device)
        self._surroundings = Surroundings(self.config.search_grid, self._device)

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
        features = self._surroundings(prediction.search_features.flatten(2).transpose(1, 2), decoded.cell).cpu().numpy()
        kept = prediction.survivors[-1].cpu().numpy() if prediction.survivors else [None] * len(boxes)
        height, width = frame.shape[:2]
        sides = [size / factor for _, factor in crops]
        places = [to_frame((cx, cy, w, h), side, box) for (cx, cy, w, h, _, _), side, box in zip(rows, sides, boxes, strict=True)]
        targets = [
            Observation(clip(place, width, height), place, side, score, weighted, tokens, around)
            for place, side, (*_, score, weighted), tokens, around in zip(places, sides, rows, kept, features, strict=True)
        ]
        end = time.perf_counter()
        timings = {"crop": 1e3 * (cropped - start), "network": 1e3 * (ran - cropped), "decode": 1e3 * (end - ran)}
        return Observations(targets, timings)
