"""Low-rank adaptation: what learns, what stays, and that the exported file is the network that was trained."""

import pytest
import torch
from torch import nn

from engine.errors import ConfigError, WeightsError
from engine.model.network import build_model
from engine.training.checkpoint import CHECKPOINT
from engine.training.config import parse
from engine.training.export import export_checkpoint
from engine.training.low_rank import LowRankLinear, add_low_rank, merge_low_rank
from engine.weights.io import load_weights, save_weights
from tests.engine.training.data import TINY
from tests.engine.training.test_trainer import trainer

RANK = 3


def crops(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(2, 3, size, size, generator=generator) for size in (TINY.template_size, TINY.search_size))


def outputs(network):
    with torch.no_grad():
        prediction = network.eval()(*crops(), 1.0)
    return torch.cat([prediction.template_features.flatten(), prediction.search_features.flatten(), prediction.score_map.flatten()])


def with_corrections(frozen_layers=0):
    """A plain network, and one with the same weights and corrections."""
    torch.manual_seed(1)
    plain = build_model(TINY)
    low = build_model(TINY)
    low.load_state_dict(plain.state_dict())
    add_low_rank(low, RANK, frozen_layers)
    return plain, low


def test_corrections_start_at_zero():
    plain, low = with_corrections()
    assert torch.equal(outputs(plain), outputs(low))


def test_every_matrix_above_the_frozen_layers_has_one():
    _, low = with_corrections(frozen_layers=1)
    found = {name for name, layer in low.backbone.named_modules() if isinstance(layer, LowRankLinear)}
    wanted = {f"blocks.{index}.{layer}" for index in range(1, TINY.depth) for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    assert found == wanted
    layer = low.backbone.blocks[1].mlp.fc1
    assert layer.low_rank_down.shape == (RANK, layer.in_features)
    assert layer.low_rank_up.shape == (layer.out_features, RANK)


def test_outputs_and_gradients_are_those_of_the_sum():
    torch.manual_seed(2)
    layer = nn.Linear(10, 7).double()
    layer.__class__ = LowRankLinear
    down, up = (nn.Parameter(torch.randn(*shape, dtype=torch.float64)) for shape in ((RANK, 10), (7, RANK)))
    layer.register_parameter("low_rank_down", down)
    layer.register_parameter("low_rank_up", up)
    for shape in ((4, 5, 10), (5, 10), (1, 1, 10)):
        x = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        weigh = torch.randn(*shape[:-1], 7, dtype=torch.float64)
        wanted = nn.functional.linear(x, layer.weight + up @ down, layer.bias)
        assert torch.allclose(layer(x), wanted, rtol=1e-12, atol=1e-12)
        theirs = torch.autograd.grad((wanted * weigh).sum(), (x, down, up))
        ours = torch.autograd.grad((layer(x) * weigh).sum(), (x, down, up))
        for mine, other in zip(ours, theirs, strict=True):
            assert torch.allclose(mine, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("frozen_layers", [0, 1])
def test_the_merged_network_is_the_trained_one(frozen_layers):
    plain, low = with_corrections(frozen_layers)
    for name, parameter in low.named_parameters():
        if name.endswith("low_rank_up"):
            nn.init.normal_(parameter, std=0.5)
    merged = build_model(TINY)
    merged.load_state_dict(merge_low_rank(low.state_dict()))  # strict: the plain network's names
    assert torch.allclose(outputs(merged), outputs(low), rtol=1e-4, atol=1e-4)
    assert (outputs(plain) - outputs(low)).abs().max() > 0.5


def test_a_run_changes_corrections_and_vectors_alone(tmp_path):
    run = trainer(tmp_path, low_rank=RANK, frozen_layers=1)
    before = {name: value.clone() for name, value in run.model.network.backbone.state_dict().items()}
    run.run()
    after = run.model.network.backbone.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    learns = {
        name
        for name, value in after.items()
        if name.startswith(("norm.", "token_type"))
        or (name.startswith("blocks.") and int(name.split(".")[1]) >= 1 and (value.dim() == 1 or "low_rank" in name))
    }
    assert changed == learns


def test_runs_resume_and_their_export_is_a_plain_file(tmp_path):
    whole = trainer(tmp_path / "whole", low_rank=RANK)
    whole.run()
    first = trainer(tmp_path / "parts", low_rank=RANK)
    first.run(lambda record: first.stop() if record["step"] == 2 else None)
    second = trainer(tmp_path / "parts", low_rank=RANK)
    second.run()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    export_checkpoint(tmp_path / "parts" / CHECKPOINT, tmp_path / "w.safetensors", second.config)
    found = load_weights(tmp_path / "w.safetensors").state_dict
    assert found.keys() == build_model(TINY).state_dict().keys()
    name = "backbone.blocks.0.mlp.fc1"
    averaged = second.averaged.network.get_submodule(name)
    wanted = averaged.weight + averaged.low_rank_up @ averaged.low_rank_down
    assert torch.equal(found[name + ".weight"].float(), wanted.half().float())


def test_a_run_goes_on_from_weights_in_a_file(tmp_path):
    first = trainer(tmp_path / "first", steps=1)
    first.run()
    export_checkpoint(tmp_path / "first" / CHECKPOINT, tmp_path / "w.safetensors", first.config)
    second = trainer(tmp_path / "second", low_rank=RANK, init=str(tmp_path / "w.safetensors"))
    state = second.model.network.state_dict()
    for name, value in load_weights(tmp_path / "w.safetensors").state_dict.items():
        assert torch.equal(state[name], value.to(state[name].dtype)), name


@pytest.mark.parametrize("depth", [TINY.depth - 1, TINY.depth + 1])
@pytest.mark.parametrize("rank", [0, RANK])
def test_weights_of_another_model_are_refused(tmp_path, depth, rank):
    other = TINY.replace(depth=depth, elimination_layers=())
    save_weights(tmp_path / "other.safetensors", build_model(other).state_dict(), other)
    with pytest.raises(WeightsError, match=r"do not fit the model 'tiny': (missing|unexpected) backbone\.blocks"):
        trainer(tmp_path / "run", low_rank=rank, init=str(tmp_path / "other.safetensors"))


def test_bf16_runs(tmp_path):
    run = trainer(tmp_path, low_rank=RANK, precision="bf16")
    run.run()
    layer = run.model.network.backbone.blocks[1].mlp.fc1
    assert layer.low_rank_up.dtype == torch.float32
    assert bool(torch.isfinite(layer.low_rank_up).all())
    assert layer.low_rank_up.abs().max() > 0


@pytest.mark.parametrize("changes", [{"low_rank": RANK + 1}, {"low_rank": 0}, {"low_rank": RANK, "frozen_layers": 1}])
def test_a_run_does_not_go_on_with_other_parameters(tmp_path, changes):
    trainer(tmp_path, low_rank=RANK, steps=1).run()
    with pytest.raises(ConfigError, match=r"checkpoint.pt: expected the parameters of a run with low_rank .*, got others"):
        trainer(tmp_path, **changes)


@pytest.mark.parametrize("rank", [-1, 1.5, "8", True, 385])
def test_bad_ranks_are_refused(rank):
    with pytest.raises(ConfigError, match=r"low_rank must be a whole number in \[0, 384\], got"):
        parse({"low_rank": rank})


def test_some_layer_must_learn():
    with pytest.raises(ConfigError, match="low_rank needs layers that are not frozen"):
        parse({"low_rank": 4, "frozen_layers": 12})


def test_frozen_layers_stay_so():
    with pytest.raises(ConfigError, match="leave frozen_steps out"):
        parse({"low_rank": 4, "frozen_layers": 2, "frozen_steps": 10})
