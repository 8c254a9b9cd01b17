"""The golden files' rule: how their weights and inputs were drawn, so that the files need to hold outputs only."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from engine import ModelConfig, build_model
from engine.errors import DatasetError
from engine.weights.io import Weights


def draw(name: str, shape: tuple[int, ...], seed: int, gain: float) -> NDArray[np.float64]:
    """The parameter or buffer `name` (OSTrack's names). Depends on the arguments alone; `gain` scales the QKV weights."""
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    noise = generator.standard_normal(shape)
    leaf = name.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return np.zeros(shape)
    if leaf == "running_var":
        return 0.5 + generator.random(shape)
    if leaf == "running_mean":
        return 0.1 * noise
    if leaf == "bias" or "pos_embed" in name or "cls_token" in name:
        return 0.02 * noise
    if "token_type" in name:  # as large as an embedded patch
        return noise
    if len(shape) == 1:
        return 1 + 0.1 * noise
    factor = gain if ".qkv." in name else 4.0 if "conv5_" in name else 1.0
    return factor * noise / np.sqrt(np.prod(shape[1:]))


def draw_images(template_size: int, search_size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Template and search image, float32 [1, 3, S, S], as the network receives them (already normalised)."""
    generator = np.random.default_rng([seed, 7])
    template, search = (generator.standard_normal((1, 3, side, side)).astype(np.float32) for side in (template_size, search_size))
    return torch.from_numpy(template), torch.from_numpy(search)


def patch_rows(images: torch.Tensor) -> torch.Tensor:
    """Normalised images [B, 3, S, S] -> rows of 16 x 16 patches [B, (S / 16)^2, 768], as a convolution's weight reads them."""
    batch, _, size, _ = images.shape
    grid = size // 16
    return images.view(batch, 3, grid, 16, grid, 16).permute(0, 2, 4, 1, 3, 5).reshape(batch, grid * grid, 768)


def draw_weights(config: ModelConfig, seed: int, gain: float, path: Path) -> Weights:
    """The network's parameters by `draw`, float32; `path` is the file that asks for them."""
    with torch.device("meta"):
        expected = build_model(config).state_dict()
    state_dict = {
        name: torch.from_numpy(np.asarray(draw(name, tuple(value.shape), seed, gain))).to(value.dtype) for name, value in expected.items()
    }
    return Weights(config, state_dict, {"source": f"golden rule, seed {seed}, gain {gain}"}, path)


def model_config(spec: dict[str, Any], **changes: Any) -> ModelConfig:
    """The configuration that a forward file's `spec` describes."""
    alpha, beta, delta = (float(value) for value in spec["fda"])
    config = ModelConfig(
        name="golden",
        dim=spec["dim"],
        heads=spec["heads"],
        depth=spec["depth"],
        template_size=spec["zs"],
        search_size=spec["xs"],
        head_channels=spec["head_ch"],
        alpha=alpha,
        beta=beta,
        delta=delta,
        **changes,
    )
    if config.template_token != spec["template_token"]:
        raise DatasetError(f"the model eliminates by template token {config.template_token}, the file by {spec['template_token']}")
    return config


def load(path: Path) -> dict[str, Any]:
    """A golden file as a dictionary with its `kind`. DatasetError for a file that is missing, damaged, or of no known form."""
    if not path.is_file():
        raise DatasetError(f"{path}: no such file")
    try:
        if path.suffix == ".json":
            content: dict[str, Any] = {**json.loads(path.read_text()), "kind": "metrics"}
            if not isinstance(content.get("sequences"), dict):
                raise DatasetError(f"{path}: a metrics file must hold 'sequences'")
            return content
        with np.load(path) as arrays:  # refuses pickled objects
            content = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, json.JSONDecodeError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path}: not a readable golden file: {error}") from error
    if "kind" not in content:
        raise DatasetError(f"{path}: holds no 'kind'")
    content["kind"] = str(content["kind"])
    return content


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """uint8 [height, width, 3]. DatasetError for a file that is no image."""
    image = cv2.imread(str(path))
    if image is None:
        raise DatasetError(f"{path}: no readable image")
    return np.ascontiguousarray(image[:, :, ::-1])
