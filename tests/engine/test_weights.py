"""Weights files: what is written comes back, and what is wrong is named."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine import ModelConfig, build_model
from engine.errors import ConfigError, WeightsError
from engine.weights import find_weights, from_ostrack, load_weights, save_weights
from engine.weights.checkpoint import read_checkpoint
from engine.weights.dinov2 import read_model


def _resave(path, target, change, metadata=None):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, target, metadata=metadata or {"format": "esat-1", "config": json.dumps(load_weights(path).config.to_dict())})
    return target


def test_round_trip_keeps_values_config_and_metadata(tiny_weights, tmp_path):
    first = load_weights(tiny_weights)
    save_weights(tmp_path / "again.safetensors", first.state_dict, first.config, {"source": "copy"})
    second = load_weights(tmp_path / "again.safetensors")
    assert second.config == first.config
    assert second.metadata["source"] == "copy"
    assert all(torch.equal(first.state_dict[name], value) for name, value in second.state_dict.items())
    assert os.listdir(tmp_path) == ["again.safetensors"]


def test_half_precision_files_load_as_float32(tiny_weights, tmp_path):
    first = load_weights(tiny_weights)
    halves = {name: value.half() if value.dim() > 1 else value for name, value in first.state_dict.items()}
    save_weights(tmp_path / "half.safetensors", halves, first.config)
    model = load_weights(tmp_path / "half.safetensors").model()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("backbone.norm.bias"), r"missing backbone.norm.bias \(96,\)"),
        (lambda t: t.update(extra=torch.zeros(2)), r"unexpected extra \(2,\)"),
        (lambda t: t.update({"backbone.norm.bias": torch.zeros(3)}), r"backbone.norm.bias: expected \(96,\), got \(3,\)"),
        (lambda t: t["backbone.norm.bias"].fill_(float("nan")), "backbone.norm.bias has NaN or infinite values"),
    ],
)
def test_wrong_parameters_are_named(tiny_weights, tmp_path, change, message):
    with pytest.raises(WeightsError, match=message):
        load_weights(_resave(tiny_weights, tmp_path / "bad.safetensors", change))


def test_truncated_foreign_and_missing_files_are_refused(tiny_weights, tmp_path):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(tiny_weights.read_bytes()[:1000])
    text = tmp_path / "text.safetensors"
    text.write_text("not tensors")
    foreign = _resave(tiny_weights, tmp_path / "foreign.safetensors", lambda t: None, {"format": "pt"})
    for path, message in [
        (cut, "not a complete"),
        (text, "not a complete"),
        (foreign, "expected a file of format"),
        (tmp_path / "no", "not found"),
    ]:
        with pytest.raises(WeightsError, match=message):
            load_weights(path)


def test_a_folder_that_may_not_be_entered(locked):
    for read in (load_weights, find_weights, read_checkpoint, read_model):
        with pytest.raises(WeightsError, match=str(locked / "a.safetensors")):
            read(locked / "a.safetensors")


def test_a_failed_save_leaves_nothing_behind(tiny_weights, tmp_path):
    weights = load_weights(tiny_weights)
    with pytest.raises(WeightsError, match="cannot write"):
        save_weights("/proc/version/file.safetensors", weights.state_dict, weights.config)
    with pytest.raises(WeightsError, match="do not fit"):
        save_weights(tmp_path / "file.safetensors", {}, weights.config)
    assert os.listdir(tmp_path) == []


def test_names_and_paths_are_told_apart(tiny_weights):
    assert find_weights(tiny_weights).config.name == "tiny"
    with pytest.raises(ConfigError, match="unknown model 'nonsense'"):
        find_weights("nonsense")
    with pytest.raises(WeightsError, match="no weights are shipped for 'esat-384'"):
        find_weights("esat-384")


def test_ostrack_names_map_and_unused_ones_are_dropped():
    config = ModelConfig(dim=24, heads=3, head_channels=8, template_size=32, search_size=64)
    state_dict = {f"module.{name}": value for name, value in build_model(config).state_dict().items() if "num_batches" not in name}
    state_dict |= {"backbone.cls_token": torch.zeros(1, 1, 24), "backbone.pos_embed": torch.zeros(1, 197, 24)}
    mapped = from_ostrack(state_dict, config)
    assert mapped.keys() == build_model(config).state_dict().keys()
    with pytest.raises(WeightsError, match=r"unexpected backbone.blocks.11.attn.relative \(3,\)"):
        from_ostrack(state_dict | {"backbone.blocks.11.attn.relative": torch.zeros(3)}, config)
