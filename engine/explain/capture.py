"""Run one frame through the reference network and keep what the pictures show."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import esat_kernels
from engine.boxes import Box
from engine.model.backbone import Attention
from engine.model.network import EsatNetwork
from engine.runners.preprocess import normalise

FloatMap = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Insight:
    """One frame. F is the side of the search grid, f that of the template grid; images are RGB."""

    search_image: NDArray[np.uint8]  # [S, S, 3]
    template_image: NDArray[np.uint8]  # [s, s, 3]
    kept: list[NDArray[np.bool_]]  # [F, F] after each elimination
    attention: FloatMap  # [F, F], the template centre's attention at the last eliminating layer, mean over heads, 0 where eliminated
    score_map: FloatMap  # [F, F]
    feature_map: FloatMap  # [F, F], norm of the search features, 0 where eliminated


def see(
    network: EsatNetwork, template_crop: NDArray[np.uint8], search_crop: NDArray[np.uint8], template_box: Tensor | None = None
) -> Insight:
    """template_crop and search_crop: RGB uint8 of the model's sizes. template_box: see `EsatNetwork`. The network must be in evaluation mode."""
    config = network.config
    side = config.search_grid
    with torch.inference_mode(), _record_attention(network) as rows:
        prediction = network(_tensor(template_crop, network), _tensor(search_crop, network), template_box=template_box)
    kept = [_grid(survivors[0], torch.ones(survivors.shape[1]), side) > 0 for survivors in prediction.survivors]
    last = prediction.survivors[-2][0] if len(prediction.survivors) > 1 else torch.arange(config.num_search)
    attention = _grid(last, rows[-1][0], side) if rows else np.zeros((side, side), np.float32)
    return Insight(
        search_crop, template_crop, kept, attention, _array(prediction.score_map[0, 0]), _array(prediction.search_features[0].norm(dim=0))
    )


def correlations(
    network: EsatNetwork, template_crop: NDArray[np.uint8], search_crop: NDArray[np.uint8], template_box: Tensor | None = None
) -> dict[str, FloatMap]:
    """Cosine similarity between all tokens (template first), [N, N], without elimination: figure 1 of the paper.

    The four pictures: features of the network, of the same weights without force-directed attention, of the same weights without position
    embeddings, and the position embeddings themselves.
    """
    template, search = _tensor(template_crop, network), _tensor(search_crop, network)
    backbone = network.backbone

    def features() -> FloatMap:
        z, x, _ = backbone(template, search, 1.0, template_box)
        return _cosine(torch.cat([z, x], 1)[0])

    with torch.inference_mode():
        result = {"features": features()}
        with _plain_attention(network):
            result["features without FDA"] = features()
        with _without(backbone.pos_embed_z, backbone.pos_embed_x):
            result["features without position embedding"] = features()
        result["position embeddings"] = _cosine(torch.cat([backbone.pos_embed_z, backbone.pos_embed_x], 1)[0])
    return result


def crops(frame: NDArray[np.uint8], box: Box, factor: float, size: int) -> NDArray[np.uint8]:
    """The region around `box` of a BGR frame as an RGB image [size, size, 3]."""
    return np.ascontiguousarray(esat_kernels.crop_resize(frame, box, factor, size)[0][:, :, ::-1])


def _attentions(network: EsatNetwork) -> list[Attention]:
    return [module for module in network.backbone.modules() if isinstance(module, Attention)]


@contextlib.contextmanager
def _record_attention(network: EsatNetwork) -> Iterator[list[Tensor]]:
    """Collect the template centre's attention [B, n] to the search tokens that enter each eliminating layer."""
    config = network.config
    rows: list[Tensor] = []

    def record(module: Any, inputs: tuple[Tensor, bool], output: Any) -> None:
        if output[1] is not None:
            rows.append(output[1])

    attentions = _attentions(network)
    handles = [attentions[layer].register_forward_hook(record) for layer in config.elimination_layers]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _plain_attention(network: EsatNetwork) -> Iterator[None]:
    """The same weights with alpha = beta = 0."""
    attentions = _attentions(network)
    plain = network.config.replace(alpha=0.0, beta=0.0)
    for attention in attentions:
        attention.config = plain
    try:
        yield
    finally:
        for attention in attentions:
            attention.config = network.config


@contextlib.contextmanager
def _without(*parameters: Tensor) -> Iterator[None]:
    saved = [parameter.clone() for parameter in parameters]
    for parameter in parameters:
        parameter.zero_()
    try:
        yield
    finally:
        for parameter, value in zip(parameters, saved, strict=True):
            parameter.copy_(value)


def _tensor(crop: NDArray[np.uint8], network: EsatNetwork) -> Tensor:
    return normalise([crop], bgr=False, device=network.backbone.pos_embed_x.device)


def _grid(positions: Tensor, values: Tensor, side: int) -> FloatMap:
    flat = torch.zeros(side * side)
    flat[positions.cpu()] = values.cpu().float()
    return _array(flat.view(side, side))


def _cosine(tokens: Tensor) -> FloatMap:
    tokens = torch.nn.functional.normalize(tokens.float(), dim=-1)
    return _array(tokens @ tokens.T)


def _array(values: Tensor) -> FloatMap:
    return np.asarray(values.detach().float().cpu().numpy(), np.float32)
