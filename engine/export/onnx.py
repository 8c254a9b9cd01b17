"""ONNX export of the whole network with force-directed attention and candidate elimination (integer indices throughout)."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.config import ModelConfig
from engine.errors import ConfigError
from engine.files import PendingFile
from engine.model.network import EsatNetwork, Prediction
from engine.model.token_types import usual_box
from engine.weights.io import Weights

INPUTS = ("template", "search", "template_box")  # the last one of models with `token_types` alone
OUTPUTS = ("score_map", "size_map", "offset_map", "kept_tokens")
_OPSET = 18


class Exported(nn.Module):
    """What the file computes: normalised images -> the three maps and the search positions that survive, [B, n] int64, ascending."""

    def __init__(self, network: EsatNetwork):
        super().__init__()
        self.network = network

    def forward(self, template: Tensor, search: Tensor, template_box: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        prediction = self.network(template, search, template_box=template_box)
        return prediction.score_map, prediction.size_map, prediction.offset_map, kept_tokens(prediction)


def kept_tokens(prediction: Prediction) -> Tensor:
    """The search positions that survive every elimination, [B, n] int64, ascending; all where `keep_ratio` is 1."""
    if prediction.survivors:
        return prediction.survivors[-1]
    batch, _, side, _ = prediction.score_map.shape
    return torch.arange(side * side, device=prediction.score_map.device).repeat(batch, 1)


def inputs_of(config: ModelConfig, template: Tensor, search: Tensor, template_box: Tensor | None = None) -> dict[str, Tensor]:
    """What the file of a model takes, by name. Without a `template_box`, one of the usual size in the middle."""
    if not config.token_types:
        return dict(zip(INPUTS, (template, search), strict=False))
    if template_box is None:
        template_box = usual_box(config, len(template))
    return dict(zip(INPUTS, (template, search, template_box), strict=True))


def export_onnx(weights: Weights, target: Path, batch: int = 1) -> None:
    """Write the network of `weights` for a fixed batch size. The file appears under its name only when it is complete.

    Inputs: template [B, 3, S_z, S_z] and search [B, 3, S_x, S_x], RGB normalised by the ImageNet statistics, and for a model with `token_types`
    template_box [B, 4], the target in the template, cx, cy, w, h over its side; all float32.
    ConfigError without the extra or for a model without elimination, SinkError if the file cannot be written.
    """
    try:
        import onnx
        import onnxscript
    except ImportError as error:
        raise ConfigError(f"ONNX export needs more packages ({error.name}): pip install 'esat-engine[export]'") from error
    opset: Any = onnxscript.opset18
    config = weights.config
    if not config.elimination_layers:
        raise ConfigError(f"{config.name}: ONNX export is for models with candidate elimination")

    def stable_sort(values: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
        """ONNX's TopK lets the lower index win ties: sorted over a whole axis it is a stable sort."""
        size = opset.Gather(opset.Shape(values), opset.Constant(value_ints=[dim]), axis=0)
        return opset.TopK(values, size, axis=dim, largest=descending, sorted=True)

    module = Exported(weights.model("reference")).eval()
    inputs = inputs_of(config, *(torch.randn(batch, 3, side, side) for side in (config.template_size, config.search_size)))
    with PendingFile(target) as pending:
        with _quiet():
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                dynamo=True,
                opset_version=_OPSET,
                input_names=list(inputs),
                output_names=list(OUTPUTS),
                custom_translation_table={torch.ops.aten.sort.stable: stable_sort},
            )
        assert program is not None
        model = program.model_proto
        for key, value in {"esat_config": json.dumps(config.to_dict()), "esat_source": weights.path.name}.items():
            model.metadata_props.add(key=key, value=value)
        onnx.save(model, str(pending.partial))
        onnx.checker.check_model(str(pending.partial))


@contextlib.contextmanager
def _quiet() -> Any:
    """Without the exporter's progress text and its notes on packages that are not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
