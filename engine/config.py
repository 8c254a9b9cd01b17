"""What a model is: sizes, force constants and elimination schedule, frozen and validated at birth. The presets carry the paper's names."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from engine.errors import ConfigError

_MAX_SIZE, _MAX_DEPTH, _MAX_FACTOR = 8192, 256, 64


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """One network. Sizes are in pixels, factors multiply the target's size sqrt(w h), layers are 0-based."""

    name: str = "esat-384"
    dim: int = 768
    heads: int = 12
    depth: int = 12
    mlp_ratio: float = 4.0
    patch_size: int = 16
    template_size: int = 192
    search_size: int = 384
    template_factor: float = 2.0
    search_factor: float = 5.0
    head_channels: int = 256
    alpha: float = 0.1  # weight of the attraction (equation 7, table 4)
    beta: float = 0.1  # weight of the repulsion
    delta: float | None = None  # scale of the squared distance (equation 5); None: head_dim ** -0.5, since the paper gives no value
    elimination_layers: tuple[int, ...] = (3, 6, 9)
    keep_ratio: float = 0.7
    token_types: bool = False  # a learned vector marks the template tokens that the target's box covers (LoRAT, Lin et al. 2024)

    def __post_init__(self) -> None:
        def need(condition: bool, what: str) -> None:
            if not condition:
                raise ConfigError(f"model config {self.name!r}: {what}")

        object.__setattr__(self, "elimination_layers", tuple(self.elimination_layers))
        for field in ("dim", "heads", "depth", "patch_size", "template_size", "search_size", "head_channels"):
            value = getattr(self, field)
            limit = _MAX_DEPTH if field == "depth" else _MAX_SIZE  # a damaged file must not keep the machine busy for hours
            need(type(value) is int and 0 < value <= limit, f"{field} must be an integer from 1 to {limit}, got {value!r}")
        need(self.dim % self.heads == 0, f"dim must be a multiple of heads, got {self.dim} and {self.heads}")
        need(self.head_channels % 8 == 0, f"head_channels must be a multiple of 8, got {self.head_channels}")
        for field in ("template_size", "search_size"):
            value = getattr(self, field)
            need(value % self.patch_size == 0, f"{field} must be a multiple of patch_size {self.patch_size}, got {value}")
        for field in ("template_factor", "search_factor", "mlp_ratio"):
            value = getattr(self, field)
            need(math.isfinite(value) and 0 < value <= _MAX_FACTOR, f"{field} must be a positive number up to {_MAX_FACTOR}, got {value!r}")
        for field in ("alpha", "beta"):
            value = getattr(self, field)
            need(math.isfinite(value) and value >= 0, f"{field} must be zero or a positive number, got {value!r}")
        need(
            self.delta is None or (math.isfinite(self.delta) and self.delta >= 0),
            f"delta must be None, zero or positive, got {self.delta!r}",
        )
        need(type(self.token_types) is bool, f"token_types must be true or false, got {self.token_types!r}")
        need(0 < self.keep_ratio <= 1, f"keep_ratio must lie in (0, 1], got {self.keep_ratio!r}")
        layers = self.elimination_layers
        need(
            list(layers) == sorted(set(layers)) and all(0 <= layer < self.depth for layer in layers),
            f"elimination_layers must ascend within [0, {self.depth}), got {layers}",
        )

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def forces(self) -> dict[str, Any]:
        """The constants of equations 5-7 as `esat_kernels.fda_attention` takes them."""
        return {"alpha": self.alpha, "beta": self.beta, "delta": self.force_delta}

    @property
    def force_delta(self) -> float:
        """delta of equation 5 as a number."""
        return self.head_dim**-0.5 if self.delta is None else self.delta

    @property
    def template_grid(self) -> int:
        return self.template_size // self.patch_size

    @property
    def search_grid(self) -> int:
        return self.search_size // self.patch_size

    @property
    def num_template(self) -> int:
        return self.template_grid**2

    @property
    def num_search(self) -> int:
        return self.search_grid**2

    @property
    def template_token(self) -> int:
        """The template token whose attention decides the elimination: the upper left of the four central ones (public code: CTR_POINT)."""
        middle = (self.template_grid - 1) // 2
        return middle * self.template_grid + middle

    def search_tokens_per_layer(self, keep_ratio: float | None = None) -> list[int]:
        """Search tokens that enter each layer's MLP: 576, 576, 576, 404, ... for esat-384."""
        ratio = self.keep_ratio if keep_ratio is None else keep_ratio
        count, counts = self.num_search, []
        for layer in range(self.depth):
            if layer in self.elimination_layers:
                count = math.ceil(ratio * count)
            counts.append(count)
        return counts

    def replace(self, **changes: Any) -> ModelConfig:
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """The inverse of `to_dict`; unknown keys are an error (ConfigError), missing ones take their defaults."""
        if not isinstance(values, dict):
            raise ConfigError(f"model config: expected a mapping, got {values!r}")
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(map(str, set(values) - known))
        if unknown:
            raise ConfigError(f"model config: unknown keys {unknown}, known are {sorted(known)}")
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"model config: {error}") from error


_BASE_256: dict[str, Any] = {"template_size": 128, "search_size": 256, "search_factor": 4.0}
_NO_FORCE: dict[str, Any] = {"alpha": 0.0, "beta": 0.0}

PRESETS: dict[str, ModelConfig] = {
    config.name: config
    for config in (
        ModelConfig(),
        ModelConfig(name="esat-256", **_BASE_256),
        ModelConfig(name="esat-s-256", dim=384, heads=6, head_channels=128, token_types=True, **_BASE_256),
        ModelConfig(name="ostrack-384", **_NO_FORCE),
        ModelConfig(name="ostrack-256", **_BASE_256, **_NO_FORCE),
    )
}


def preset(name: str) -> ModelConfig:
    """The preset of that name, or ConfigError with the names there are."""
    if name not in PRESETS:
        raise ConfigError(f"unknown model {name!r}: expected one of {', '.join(PRESETS)} or a path to a .safetensors file")
    return PRESETS[name]
