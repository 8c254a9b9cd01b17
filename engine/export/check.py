"""Does an exported file say what PyTorch says? Compared on the search regions of a real clip."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import esat_kernels
from engine.boxes import Box
from engine.errors import ConfigError, SourceError
from engine.export.onnx import OUTPUTS, inputs_of, kept_tokens
from engine.model.backbone import Attention
from engine.model.network import EsatNetwork
from engine.runners.postprocess import hann_window
from engine.runners.preprocess import normalise, template_box
from engine.tracking.tracker import Tracker
from engine.weights.io import Weights

Session = Callable[[dict[str, NDArray[Any]]], list[NDArray[Any]]]
RUNTIMES = ("onnxruntime", "openvino")
TIE = 1e-4  # elimination scores that differ by less, relatively, may change places by float32 rounding (seen at gaps of 3e-6 and 9e-6)


@dataclasses.dataclass
class Agreement:
    """One runtime against PyTorch in fp32, over `frames` frames."""

    runtime: str
    version: str
    frames: int = 0
    same_tokens: int = 0  # frames in which exactly the same tokens were kept
    ties: int = 0  # frames with other tokens because the last one kept and the first one eliminated were equal but for rounding
    max_score_error: float = 0.0
    max_box_error_px: float = 0.0  # in pixels of the search crop

    @property
    def ok(self) -> bool:
        """The bounds that float32 rounding allows. Frames that are ties say nothing, and are not all there is."""
        same = self.same_tokens > 0 and self.same_tokens + self.ties == self.frames
        return same and self.max_score_error < 1e-4 and self.max_box_error_px < 0.05


def open_session(path: Path, runtime: str) -> tuple[Session, str]:
    """A function from named inputs to the file's outputs, on the CPU in fp32, and the runtime's version."""
    try:
        if runtime == "onnxruntime":
            import onnxruntime

            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            return lambda inputs: session.run(list(OUTPUTS), inputs), onnxruntime.__version__
        import openvino

        compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return lambda inputs: [compiled(inputs)[name] for name in OUTPUTS], openvino.__version__
    except ImportError as error:
        raise ConfigError(f"checking with {runtime} needs it installed: pip install 'esat-engine[peers]'") from error


def check(path: Path, weights: Weights, frames: Iterable[NDArray[np.uint8]], box: Box, runtime: str) -> Agreement:
    """Follow `box` through `frames` (BGR) with PyTorch in fp32 and compare the file's answer on each search region.

    SourceError for fewer than two frames, ConfigError without the runtime.
    """
    session, version = open_session(path, runtime)
    agreement = Agreement(runtime, version)
    config = weights.config
    tracker = Tracker(weights, "cpu", "fp32", backend="reference")
    network, window, device = weights.model("reference"), hann_window(config.search_grid), torch.device("cpu")
    template = None
    for frame in frames:
        if template is None:
            tracker.init(frame, box)
            template = normalise([esat_kernels.crop_resize(frame, box, config.template_factor, config.template_size)[0]], True, device)
            where = template_box(box, config)
            continue
        search = normalise([esat_kernels.crop_resize(frame, box, config.search_factor, config.search_size)[0]], True, device)
        inputs = inputs_of(config, template, search, where)
        theirs = [torch.from_numpy(output) for output in session({name: value.numpy() for name, value in inputs.items()})]
        with torch.inference_mode(), _elimination_scores(network) as scores:
            ours = network(template, search, template_box=where)
            mine = esat_kernels.decode_maps(ours.score_map, ours.size_map, ours.offset_map, window)
            other = esat_kernels.decode_maps(theirs[0], theirs[1], theirs[2], window)
        agreement.frames += 1
        same = torch.equal(kept_tokens(ours), theirs[3])
        if not same and smallest_gap(scores, [kept.shape[1] for kept in ours.survivors]) < TIE:
            agreement.ties += 1
            box = tracker.update(frame).box
            continue
        agreement.same_tokens += int(same)
        agreement.max_score_error = max(agreement.max_score_error, float((ours.score_map - theirs[0]).abs().max()))
        error = float((mine.box - other.box).abs().max()) * config.search_size
        agreement.max_box_error_px = max(agreement.max_box_error_px, error)
        box = tracker.update(frame).box
    if agreement.frames == 0:
        raise SourceError(f"a file is checked on two frames or more, since the first holds the target: got {int(template is not None)}")
    return agreement


@contextlib.contextmanager
def _elimination_scores(network: EsatNetwork) -> Iterator[list[Tensor]]:
    """While open, the scores [B, n] of every elimination that the network carries out are appended to the list."""
    scores: list[Tensor] = []

    def keep(module: torch.nn.Module, arguments: Any, output: tuple[Tensor, Tensor | None]) -> None:
        if output[1] is not None:
            scores.append(output[1])

    hooks = [module.register_forward_hook(keep) for module in network.modules() if isinstance(module, Attention)]
    try:
        yield scores
    finally:
        for hook in hooks:
            hook.remove()


def smallest_gap(scores: Sequence[Tensor], kept: Sequence[int]) -> float:
    """How much smaller, relatively, the first eliminated token's score is than the last kept one's, at the closest of all eliminations."""
    gaps = []
    for values, keep in zip(scores, kept, strict=True):
        ordered = values.double().sort(dim=1, descending=True).values
        gaps.append(float(((ordered[:, keep - 1] - ordered[:, keep]) / ordered[:, keep - 1]).min()))
    return min(gaps, default=math.inf)
