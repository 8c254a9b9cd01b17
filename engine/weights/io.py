"""Weights files: safetensors with the model's configuration in the metadata. Tensors only: no code is run from such a file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from engine.config import ModelConfig
from engine.errors import WeightsError
from engine.files import PendingFile
from engine.model.network import EsatNetwork, build_model

FORMAT = "esat-1"


@dataclasses.dataclass(frozen=True)
class Weights:
    """A weights file in memory: the model's configuration, its state dict (float32) and what the file says of its origin."""

    config: ModelConfig
    state_dict: dict[str, Tensor]
    metadata: dict[str, str]
    path: Path

    def model(self, backend: str = "auto") -> EsatNetwork:
        """The network with these parameters, in evaluation mode."""
        with torch.device("meta"):
            network = build_model(self.config, backend)
        network.load_state_dict(self.state_dict, assign=True)
        return network.eval().requires_grad_(False)


def save_weights(
    path: str | Path, state_dict: Mapping[str, Tensor], config: ModelConfig, metadata: Mapping[str, str] | None = None
) -> None:
    """Write `state_dict` (dtypes as they are), `config` and free text metadata (source, licence, data, seed, steps, commit, ...) to `path`.

    The file appears under its name only when it is complete. WeightsError if it cannot be written or the parameters do not fit `config`.
    """
    path = Path(path)
    tensors = {name: value.detach().cpu().contiguous() for name, value in state_dict.items()}
    check_parameters(tensors, config, str(path))
    header = {**(metadata or {}), "format": FORMAT, "config": json.dumps(config.to_dict())}
    try:
        with PendingFile(path) as pending:
            save_file(tensors, str(pending.partial), metadata=header)
    except (OSError, SafetensorError) as error:  # SinkError is an OSError
        raise WeightsError(f"cannot write weights to {path}: {error}") from error


def load_weights(path: str | Path) -> Weights:
    """Read and check a file that `save_weights` (or `esat convert`) wrote; parameters come back as float32.

    WeightsError for a file that is missing, no safetensors file, without our metadata, of wrong shapes, or not finite.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise WeightsError(f"weights file not found: {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = dict(file.metadata() or {})
            state_dict = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  safe_open is no mapping
    except (OSError, SafetensorError) as error:
        hint = " (a PyTorch checkpoint? use `esat convert`)" if path.suffix in (".pth", ".tar", ".pt") else ""
        raise WeightsError(f"{path} is not a complete safetensors file{hint}: {error}") from error
    if metadata.get("format") != FORMAT or "config" not in metadata:
        raise WeightsError(
            f"{path}: expected a file of format {FORMAT!r} with a model config in its metadata, got {metadata.get('format')!r}"
        )
    try:
        config = ModelConfig.from_dict(json.loads(metadata["config"]))
    except (json.JSONDecodeError, AttributeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: unreadable model config in the metadata: {error}") from error
    state_dict = {name: value.float() if value.is_floating_point() else value for name, value in state_dict.items()}
    check_parameters(state_dict, config, str(path))
    return Weights(config, state_dict, metadata, path)


def check_parameters(state_dict: Mapping[str, Tensor], config: ModelConfig, where: str) -> None:
    """WeightsError that lists every missing, unexpected, misshapen and non-finite parameter."""
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in build_model(config).state_dict().items()}
    problems = [f"missing {name} {shape}" for name, shape in expected.items() if name not in state_dict]
    problems += [f"unexpected {name} {tuple(value.shape)}" for name, value in state_dict.items() if name not in expected]
    for name, value in state_dict.items():
        if name not in expected:
            continue
        if tuple(value.shape) != expected[name]:
            problems.append(f"{name}: expected {expected[name]}, got {tuple(value.shape)}")
        elif value.is_floating_point() and not bool(torch.isfinite(value).all()):
            problems.append(f"{name} has NaN or infinite values")
    if problems:
        shown = "; ".join(problems[:20]) + (f"; and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise WeightsError(f"{where}: parameters do not fit the model {config.name!r}: {shown}")


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
