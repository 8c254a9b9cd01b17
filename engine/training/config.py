"""A training run's configuration, read from YAML and checked at once."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from engine.config import ModelConfig, preset
from engine.errors import ConfigError
from engine.training.losses import LossConfig
from engine.training.settings import AugmentConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the weights but the data's content."""

    model: ModelConfig = dataclasses.field(default_factory=lambda: preset("esat-s-256"))
    data: str = "../shared/data"  # folder of pictures and clips, or of the shards that `esat pack` wrote
    pseudo: str | None = None  # folder of box files for the unlabelled clips
    clips: dict[str, str] = dataclasses.field(
        default_factory=dict
    )  # more groups: name -> folder of clips with boxes, beside those in `data`
    layouts: dict[str, str] = dataclasses.field(default_factory=dict)  # coco, lasot, got10k, ... -> folder; used instead of `data`
    init: str | None = None  # wheel or ONNX file of DINOv2, or a .safetensors file; None: random
    seed: int = 0
    device: str = "auto"
    precision: str = "bf16"  # "bf16" (autocast) or "fp32"
    attention: str = "full"  # "full", or "repulsion": alpha = 0 while training, several times faster without a fused backward
    steps: int = 4000
    batch: int = 32
    micro_batch: int | None = None  # pairs in one forward pass (None: the batch); gradients add up
    warmup_steps: int = 100
    decay: float = 0.3  # the last part of the run in which the rate falls to zero
    decay_shape: str = "linear"  # "linear", or "step": a tenth in that part
    backbone_lr: float = 6e-5
    head_lr: float = 6e-4
    layer_decay: float = 1.0  # factor of the rate from one layer to the one below
    weight_decay: float = 1e-4
    clip: float = 1.0  # largest gradient norm
    frozen_layers: int = 0  # patch embedding, positions and this many blocks stay as they are ...
    frozen_steps: int | None = None  # ... until this step (None: always)
    low_rank: int = 0  # the layers' matrices stay, and each learns a correction of this rank (LoRA); 0: they learn themselves
    keep_warmup: tuple[int, int] = (0, 0)  # steps between which the keep ratio goes from 1 to the model's (cosine)
    ema: float = 0.998
    position_shared: bool = False
    drop_path: float = 0.0  # stochastic depth: probability at the last layer, falling to 0 at the first
    augment_on: str = "auto"  # where crops are painted: "cpu", "device", or auto: the device if it is a GPU and the pictures are in memory
    losses: LossConfig = dataclasses.field(default_factory=LossConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    notes: dict[str, str] = dataclasses.field(default_factory=dict)  # goes into the exported file's metadata: data, licences, ...
    loader_threads: int = 1
    checkpoint_minutes: float = 5.0

    def __post_init__(self) -> None:
        def need(condition: bool, what: str) -> None:
            if not condition:
                raise ConfigError(f"train config: {what}")

        need(self.precision in ("bf16", "fp32"), f"precision must be 'bf16' or 'fp32', got {self.precision!r}")
        need(self.attention in ("full", "repulsion"), f"attention must be 'full' or 'repulsion', got {self.attention!r}")
        need(self.decay_shape in ("linear", "step"), f"decay_shape must be 'linear' or 'step', got {self.decay_shape!r}")
        for name in ("steps", "batch", "loader_threads"):
            need(
                isinstance(getattr(self, name), int) and getattr(self, name) > 0,
                f"{name} must be a positive integer, got {getattr(self, name)!r}",
            )
        need(_are_texts(self.clips), f"clips must name groups and their folders, got {self.clips!r}")
        need(_are_texts(self.notes), f"notes must be texts by name, got {self.notes!r}")
        micro = self.micro_batch
        need(micro is None or (type(micro) is int and micro > 0), f"micro_batch must be a positive integer or null, got {micro!r}")
        need(self.batch % self.chunk == 0, f"batch must be a multiple of micro_batch, got {self.batch} and {self.micro_batch}")
        need(0 <= self.decay <= 1, f"decay must lie in [0, 1], got {self.decay!r}")
        need(self.augment_on in ("auto", "cpu", "device"), f"augment_on must be 'auto', 'cpu' or 'device', got {self.augment_on!r}")
        need(0 <= self.drop_path < 1, f"drop_path must lie in [0, 1), got {self.drop_path!r}")
        need(0 <= self.ema < 1, f"ema must lie in [0, 1), got {self.ema!r}")
        need(0 <= self.frozen_layers <= self.model.depth, f"frozen_layers must lie in [0, {self.model.depth}], got {self.frozen_layers!r}")
        rank = self.low_rank
        need(type(rank) is int and 0 <= rank <= self.model.dim, f"low_rank must be a whole number in [0, {self.model.dim}], got {rank!r}")
        need(not rank or self.frozen_layers < self.model.depth, "low_rank needs layers that are not frozen")
        need(not rank or self.frozen_steps is None, "with low_rank the frozen layers stay so: leave frozen_steps out")
        for name in ("backbone_lr", "head_lr", "clip", "checkpoint_minutes"):
            need(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)!r}")

    @property
    def chunk(self) -> int:
        """Pairs in one forward pass."""
        return self.micro_batch or self.batch

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def replace(self, **changes: Any) -> TrainConfig:
        return dataclasses.replace(self, **changes)


def _are_texts(values: object) -> bool:
    return isinstance(values, dict) and all(isinstance(text, str) for pair in values.items() for text in pair)


def parse(values: dict[str, Any]) -> TrainConfig:
    """A configuration from plain values. `model` is a preset's name or its fields; unknown keys are a ConfigError."""
    values = dict(values)
    for name, kind in (("losses", LossConfig), ("augment", AugmentConfig)):
        if name in values:
            values[name] = _build(kind, values[name], name)
    if "model" in values:
        model = values["model"]
        values["model"] = preset(model) if isinstance(model, str) else ModelConfig.from_dict(model)
    if "keep_warmup" in values:
        steps = values["keep_warmup"]
        if not (isinstance(steps, list | tuple) and len(steps) == 2 and all(isinstance(step, int) for step in steps)):
            raise ConfigError(f"train config: keep_warmup must be two steps, got {steps!r}")
        values["keep_warmup"] = tuple(steps)
    config = _build(TrainConfig, values, "train config")
    assert isinstance(config, TrainConfig)
    return config


def _build(kind: type, values: Any, what: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{what}: expected a mapping, got {values!r}")
    known = sorted(field.name for field in dataclasses.fields(kind))
    unknown = sorted(map(str, set(values) - set(known)))
    if unknown:
        raise ConfigError(f"{what}: unknown keys {unknown}, known are {known}")
    try:
        return kind(**values)
    except (TypeError, AttributeError) as error:  # a text where a number is needed, a number where a mapping is
        raise ConfigError(f"{what}: {error}") from error


def read_config(path: str | Path, **overrides: Any) -> TrainConfig:
    """Read YAML; `overrides` replace top-level keys. `base: OTHER.yaml`, seen from the file's folder, gives what the file does not say: mappings
    count key by key, everything else as a whole, and null takes away what the base says (JSON Merge Patch, RFC 7396)."""
    return parse(_read(Path(path), ()) | overrides)


def _read(path: Path, heirs: tuple[Path, ...]) -> dict[str, Any]:
    """A file's values over those of its base, its base's base and so on; `heirs` have it as theirs."""
    try:
        values, here = yaml.safe_load(path.read_text()), path.resolve()
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the training configuration {path}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, got {type(values).__name__}")
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str) or here in heirs:
        raise ConfigError(f"{path}: base must be the name of a file that does not lead back to this one, got {base!r}")
    try:
        return _merged(_read(path.parent / base, (*heirs, here)), values)
    except RecursionError as error:
        raise ConfigError(f"{path}: expected settings that end, got some that contain themselves") from error


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(below[key] if isinstance(below.get(key), dict) else {}, value)
        for key, value in above.items()
        if isinstance(value, dict)
    }
    return {key: value for key, value in (below | above | both).items() if above.get(key, value) is not None}
