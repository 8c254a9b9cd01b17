"""How far the engine's network is from the model in float32, at every number of tokens that a frame has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import esat_kernels
from benchmarks.gpu.inputs import images
from conformance.checks import HALF_REMOVED_OVERLAP
from conformance.golden import patch_rows
from engine.runners.gpu.cuda import streams_for
from engine.runners.gpu.network import GpuNetwork, Kernels, Seen
from engine.weights.io import Weights

DEVICE, DTYPE = torch.device("cuda"), torch.bfloat16


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class NetworkFrame:
    """The engine's network on fixed search regions, eager and captured."""

    def __init__(self, network: GpuNetwork, template: Tensor, search: Tensor):
        self.patches = patch_rows(search).to(network.dtype)
        self._network = network
        self._inputs = network.inputs(len(search))
        with torch.no_grad():
            for slot, patches in enumerate(patch_rows(template).to(network.dtype)):
                for part, value in zip(self._inputs, network.encode_template(patches), strict=True):
                    part[slot, : network.config.num_template] = value
        wait(network.device)

    @torch.no_grad()
    def eager(self) -> Seen:
        return self._network.run(self.patches, self._inputs)

    def captured(self) -> Callable[[], Seen]:
        return streams_for(self._network.device).capture(self.eager, ())


def seen_and_chosen(weights: Weights, backend: str, device: torch.device) -> tuple[Seen, list[Tensor]]:
    """What the engine makes of `images`, and the tokens that each elimination kept (positions among those before it)."""
    chosen: list[Tensor] = []
    eliminate = esat_kernels.eliminate_tokens

    def spy(*arguments: Any, places: Tensor | None = None, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
        found = eliminate(*arguments, places=places, **options)
        chosen.append(found[0].clone() if places is None else torch.searchsorted(places, found[0]))  # the engine tells them among all
        return found

    alone = NetworkFrame(GpuNetwork(weights, device, DTYPE, Kernels.of(backend)), *images(weights.config, 1, device))
    with mock.patch.object(esat_kernels, "eliminate_tokens", spy):
        return alone.eager(), chosen


def model_errors(weights: Weights, backend: str, device: torch.device = DEVICE) -> dict[str, Any]:
    """How far the bf16 score map of the engine ("engine"), and that of the eager model in bf16 ("eager"), is from the model in float32.

    The tokens that the engine kept are prescribed to both models: random weights leave near ties, which rounding would decide, and one token
    more or less changes everything behind it. "removed": of what the model in float32 would have removed, at the elimination where it is least,
    the share that the engine removed too, and that the eager model would have.
    """
    seen, chosen = seen_and_chosen(weights, backend, device)
    removed: list[set[int]] = []  # by the model that runs, at each elimination

    def prescribed(scores: Tensor, keep: int, *_: Any, **__: Any) -> Tensor:
        removed.append(_others(scores[0].float().topk(keep).indices, scores.shape[1]))
        return chosen[(len(removed) - 1) % len(chosen)]

    model, pictures_ = weights.model("reference").to(device), images(weights.config, 1, device)
    with torch.inference_mode(), mock.patch.object(esat_kernels, "select_tokens", prescribed):
        exact = model(*pictures_).score_map
        eager = model.to(DTYPE)(*(picture.to(DTYPE) for picture in pictures_)).score_map
    counts = weights.config.search_tokens_per_layer()
    before = [weights.config.num_search, *(kept.shape[1] for kept in chosen)]
    own, theirs = removed[: len(chosen)], removed[len(chosen) :]
    ours = [_others(kept[0], count) for kept, count in zip(chosen, before, strict=False)]
    share = {
        name: min((len(a & b) / len(a) for a, b in zip(own, sets, strict=True)), default=1.0)
        for name, sets in (("engine", ours), ("eager", theirs))
    }
    found: dict[str, Any] = {
        "eager": float((eager.float() - exact).abs().max()),
        "engine": float((seen.maps.score - exact).abs().max()),
        "removed": share,
        "tokens": sorted(
            {weights.config.num_template + weights.config.num_search, *(weights.config.num_template + n for n in counts[:-1]), counts[-1]}
        ),
    }
    found["ok"] = found["engine"] <= 2 * found["eager"] and share["engine"] >= min(HALF_REMOVED_OVERLAP, share["eager"] - 0.02)
    return found


def _others(positions: Tensor, count: int) -> set[int]:
    return set(range(count)) - set(positions.tolist())
