"""`esat mix`: weighted means of weights, and sources that do not fit together."""

import json

import pytest
import torch

from engine.cli.app import main
from engine.errors import ConfigError, WeightsError
from engine.model.network import build_model
from engine.model.token_types import PARAMETER
from engine.weights import mix as mixing
from engine.weights.io import file_hash, load_weights, save_weights
from engine.weights.mix import mix
from tests.engine.training.data import TINY


def write(path, seed, config=TINY, **metadata):
    """A file of random weights; its state dict."""
    torch.manual_seed(seed)
    network = build_model(config)
    for buffer in network.buffers():
        buffer.add_(seed)
    save_weights(path, network.state_dict(), config, metadata)
    return network.state_dict()


def test_the_mean_counts_shares_by_their_ratio(tmp_path):
    states = [write(tmp_path / f"{seed}.safetensors", seed, data=f"set {seed}", steps=str(seed)) for seed in (1, 2, 3)]
    mix([str(tmp_path / f"{seed}.safetensors") for seed in (1, 2, 3)], [1, 2, 5], tmp_path / "mean.safetensors")
    found = load_weights(tmp_path / "mean.safetensors")
    assert found.config == TINY
    for name, value in found.state_dict.items():
        wanted = sum(share * state[name].double() for share, state in zip((1 / 8, 2 / 8, 5 / 8), states, strict=True))
        if not states[0][name].is_floating_point():
            wanted = states[0][name]
        assert torch.allclose(value.double(), wanted.double(), rtol=2**-10, atol=2**-24), name  # a unit of float16
        assert value.dim() > 1 or not value.is_floating_point() or torch.allclose(value.double(), wanted.double(), rtol=1e-6, atol=1e-7), (
            name
        )
    assert (found.metadata["data"], found.metadata["steps"]) == ("set 1", "1")
    parts = json.loads(found.metadata["mix"])
    assert [part["share"] for part in parts] == [1 / 8, 2 / 8, 5 / 8]
    assert "commit" not in parts[0]
    assert [part["sha256"] for part in parts] == [file_hash(tmp_path / f"{seed}.safetensors") for seed in (1, 2, 3)]


def test_what_a_backbone_lacks_is_the_mean_of_the_others(tmp_path, monkeypatch):
    state = write(tmp_path / "w.safetensors", 1)
    (tmp_path / "backbone.onnx").write_bytes(b"read by the stand-in below")
    backbone = {name: value + 1 for name, value in state.items() if name.startswith("backbone.")}
    monkeypatch.setattr(mixing, "from_dinov2", lambda path, config: backbone)
    mix([str(tmp_path / "w.safetensors"), str(tmp_path / "backbone.onnx")], [0.75, 0.25], tmp_path / "mean.safetensors")
    found = load_weights(tmp_path / "mean.safetensors").state_dict
    for name, value in found.items():
        wanted = state[name] + (0.25 if name in backbone else 0)
        assert torch.allclose(value.float(), wanted.float(), rtol=2**-10, atol=2**-11), name


def test_a_share_below_zero_takes_a_source_out_of_a_mean(tmp_path):
    states = [write(tmp_path / f"{seed}.safetensors", seed) for seed in (1, 2)]
    one, other, mean, back = (str(tmp_path / f"{name}.safetensors") for name in ("1", "2", "mean", "back"))
    mix([one, other], [0.7, 0.3], mean)
    mix([mean, other], [1 / 0.7, -0.3 / 0.7], back)
    found = load_weights(back).state_dict
    for name, value in found.items():
        assert torch.allclose(value.float(), states[0][name].float(), rtol=2**-8, atol=2**-11), name


def test_shares_that_leave_nothing_of_a_part_are_refused(tmp_path, monkeypatch):
    state = write(tmp_path / "w.safetensors", 1)
    (tmp_path / "backbone.onnx").write_bytes(b"read by the stand-in below")
    monkeypatch.setattr(mixing, "from_dinov2", lambda path, config: {k: v for k, v in state.items() if k.startswith("backbone.")})
    one = str(tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=r"sum above 0 of the sources that have box_head\..* too, got 0"):
        mix([one, one, str(tmp_path / "backbone.onnx")], [1, -1, 1], tmp_path / "mean.safetensors")
    assert not (tmp_path / "mean.safetensors").exists()


def test_a_network_without_token_types_counts_with_a_mark_of_zeros(tmp_path):
    marked = TINY.replace(token_types=True)
    state = write(tmp_path / "marked.safetensors", 1, marked)
    plain = write(tmp_path / "plain.safetensors", 2, TINY.replace(token_types=False))
    torch.nn.init.normal_(state[PARAMETER])
    save_weights(tmp_path / "marked.safetensors", state, marked)
    assert mix([str(tmp_path / f"{name}.safetensors") for name in ("marked", "plain")], [3, 1], tmp_path / "mean.safetensors") == marked
    found = load_weights(tmp_path / "mean.safetensors").state_dict
    assert torch.allclose(found[PARAMETER], 0.75 * state[PARAMETER])
    bias = "backbone.norm.bias"
    assert torch.allclose(found[bias], 0.75 * state[bias] + 0.25 * plain[bias])
    with pytest.raises(ConfigError, match="sources of one model"):
        mix([str(tmp_path / f"{name}.safetensors") for name in ("plain", "marked")], [3, 1], tmp_path / "other.safetensors")


def test_a_file_with_itself_is_itself(tmp_path):
    write(tmp_path / "w.safetensors", 1)
    mix([str(tmp_path / "w.safetensors")] * 2, [1, 3], tmp_path / "once.safetensors")
    mix([str(tmp_path / "once.safetensors")] * 2, [2, 1], tmp_path / "twice.safetensors")
    once, twice = (load_weights(tmp_path / f"{name}.safetensors").state_dict for name in ("once", "twice"))
    for name, value in once.items():
        assert torch.equal(value, twice[name]) if value.dim() > 1 else torch.allclose(value, twice[name], rtol=1e-6, atol=1e-7), name


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([1], "a share for each, got 2 and 1"),
        ([1, 0], "other than 0 of a finite sum above 0, got 1, 0"),
        ([1, -1], "sum above 0, got 1, -1"),
        ([1, float("nan")], "finite sum above 0"),
        ([1, float("inf")], "finite"),
        ([1e308, 1e308], "finite"),
    ],
)
def test_bad_shares_are_refused(tmp_path, shares, message):
    write(tmp_path / "w.safetensors", 1)
    with pytest.raises(ConfigError, match=message):
        mix([str(tmp_path / "w.safetensors")] * 2, shares, tmp_path / "mean.safetensors")
    assert not (tmp_path / "mean.safetensors").exists()


def test_sources_that_do_not_fit_together(tmp_path):
    write(tmp_path / "w.safetensors", 1)
    write(tmp_path / "other.safetensors", 1, TINY.replace(name="other", depth=4))
    one, other, target = (str(tmp_path / f"{name}.safetensors") for name in ("w", "other", "mean"))
    with pytest.raises(ConfigError, match=r"expected sources of one model, got 'tiny' in .*w.safetensors and another one in .*other"):
        mix([one, other], [1, 1], target)
    with pytest.raises(ConfigError, match="the first source gives the model"):
        mix(["dinov2.whl", one], [1, 1], target)
    with pytest.raises(WeightsError, match="not found"):
        mix([one, str(tmp_path / "none.safetensors")], [1, 1], target)


def test_the_command(tmp_path, capsys):
    write(tmp_path / "w.safetensors", 1)
    one, target = str(tmp_path / "w.safetensors"), str(tmp_path / "mean.safetensors")
    for arguments, code in ((["--shares", "1,3"], 0), (["--shares", "1;3"], 2), (["--shares", "1"], 2)):
        with pytest.raises(SystemExit) as stop:
            main(["mix", target, one, one, *arguments])
        assert (stop.value.code or 0) == code
    shown = capsys.readouterr()
    assert "tiny" in shown.out
    assert "--shares: expected numbers separated by commas, such as 0.7,0.3, got '1;3'" in shown.err


def test_a_mean_of_a_mean_keeps_its_past(tmp_path):
    for seed in (1, 2):
        write(tmp_path / f"{seed}.safetensors", seed, commit=f"c{seed}", pairs=str(seed))
    one, two, mean, again = (str(tmp_path / f"{name}.safetensors") for name in ("1", "2", "mean", "again"))
    mix([one, two], [1, 1], mean)
    mix([mean, two], [1, 1], again)
    parts = json.loads(load_weights(again).metadata["mix"])
    assert [(part["commit"], part["pairs"]) for part in parts] == [("c1", "1"), ("c2", "2")]
    assert json.loads(parts[0]["mix"]) == json.loads(load_weights(mean).metadata["mix"])
