"""The mark of the template tokens that the target's box covers: shares, the network, every engine, and a saved target."""

import dataclasses

import numpy as np
import pytest
import torch

from engine import build_model
from engine.errors import ConfigError, WeightsError
from engine.model.token_types import covered, usual_box
from engine.runners.choice import make_runner
from engine.runners.gpu.runner import GpuRunner
from engine.runners.preprocess import template_box
from engine.training.config import TrainConfig
from engine.training.network import TrainingModel, initialise
from engine.weights import load_weights, save_weights
from tests.engine.runners.gpu import models
from tests.networks import TINY

MARKED = TINY.replace(template_size=128, token_types=True)  # 8 x 8 template tokens


def shares(*box):
    return covered(MARKED, 1, torch.tensor([box])).view(8, 8)


def test_a_token_counts_by_the_part_of_its_patch_that_the_box_covers():
    found = shares(0.5, 0.5, 0.5, 0.25)
    expected = torch.zeros(8, 8)
    expected[3:5, 2:6] = 1
    assert torch.equal(found, expected)
    found = shares(0.5, 0.5, 0.3125, 0.25)  # two and a half patches wide
    assert torch.allclose(found[3], torch.tensor([0, 0, 0.25, 1, 1, 0.25, 0, 0]))
    assert torch.allclose(shares(0.47, 0.61, 0.4, 0.33).sum() / 64, torch.tensor(0.4 * 0.33))


def test_a_box_beyond_the_template_covers_what_there_is():
    assert torch.equal(shares(0.5, 0.5, 1.6, 0.25)[3], torch.ones(8))
    assert shares(0.0, 0.5, 0.5, 0.25).sum() == 4
    assert shares(1.5, 0.5, 0.5, 0.25).sum() == 0


def test_a_square_box_of_the_usual_size_is_what_no_box_means():
    assert torch.equal(covered(MARKED, 2, None), covered(MARKED, 2, usual_box(MARKED, 2)))
    assert torch.equal(covered(MARKED, 1, None).view(8, 8)[2:6, 2:6], torch.ones(4, 4))
    assert covered(MARKED, 1, None).sum() == 16


def test_where_the_target_lies_in_its_template():
    box = (10.0, 20.0, 30.0, 60.0)  # the region: ceil(2 sqrt(1800)) = 85 pixels from round(25 - 42.5) = -18 and round(50 - 42.5) = 8 on
    assert template_box(box, MARKED)[0].tolist() == pytest.approx([43 / 85, 42 / 85, 30 / 85, 60 / 85])
    assert template_box(box, MARKED, (0.5, 0.5, 0.4, 0.2))[0].tolist() == pytest.approx([0.5, 0.5, 0.4, 0.2])


def test_the_mark_is_on_the_covered_tokens_alone():
    network = build_model(MARKED.replace(depth=1, elimination_layers=())).eval()
    seen = []
    network.backbone.blocks[0].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].detach()))
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(2, 3, side, side, generator=generator) for side in (128, 64)]
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.25], [0.25, 0.5, 0.25, 0.5]])
    network(*images, template_box=boxes)
    torch.nn.init.normal_(network.backbone.token_type_embed)
    network(*images, template_box=boxes)
    network(*images)
    mark = network.backbone.token_type_embed.detach()
    assert torch.allclose((seen[1] - seen[0])[:, :64], covered(MARKED, 2, boxes)[..., None] * mark, atol=1e-5)
    assert torch.allclose((seen[2] - seen[0])[:, :64], covered(MARKED, 2, None)[..., None] * mark, atol=1e-5)
    assert torch.equal(seen[1][:, 64:], seen[0][:, 64:])


def test_a_network_without_it_reads_no_box():
    torch.manual_seed(0)
    network = build_model(TINY).eval()
    assert not any("token_type" in name for name in network.state_dict())
    images = [torch.randn(1, 3, side, side) for side in (32, 64)]
    assert torch.equal(network(*images).score_map, network(*images, template_box=torch.tensor([[0.5, 0.5, 0.9, 0.1]])).score_map)


@pytest.mark.parametrize("engine", ["torch", "gpu", "cpu"])
def test_an_engine_reads_the_box_as_the_network_does(engine, tiny_weights):
    """Two boxes with one region: the crop is the same, the mark is not. `target` says where the target is if the box does not."""
    weights = models.weights() if engine == "gpu" else load_weights(tiny_weights)
    weights = dataclasses.replace(weights, config=weights.config.replace(elimination_layers=()))  # a random network likes empty places best
    reference = make_runner(weights, "cpu", "fp32", "reference")
    runner = {
        "torch": lambda: reference,
        "gpu": lambda: GpuRunner(weights, "cpu", "fp32", "reference"),
        "cpu": lambda: make_runner(weights, "cpu", "fp32"),
    }[engine]()
    frame = models.frames(1)[0]
    wide, high = (40.0, 30.0, 40.0, 20.0), (50.0, 20.0, 20.0, 40.0)

    def seen(one, box, target=None):
        return one.observe(frame, [wide], [one.encode_template(frame, box, True, target)], True).targets[0].features

    found = [seen(runner, wide), seen(runner, high)]
    np.testing.assert_allclose(found, [seen(reference, wide), seen(reference, high)], atol=2e-4)
    assert np.abs(found[0] - found[1]).max() > 5e-3
    np.testing.assert_allclose(seen(runner, wide, tuple(template_box(high, weights.config)[0].tolist())), found[1], atol=1e-5)


def test_settings_and_files_that_do_not_fit(tmp_path):
    with pytest.raises(ConfigError, match="token_types must be true or false, got 1"):
        TINY.replace(token_types=1)
    plain, marked = build_model(TINY).state_dict(), TINY.replace(token_types=True)
    with pytest.raises(WeightsError, match=r"missing backbone\.token_type_embed \(32,\)"):
        save_weights(tmp_path / "a.safetensors", plain, marked)
    save_weights(tmp_path / "a.safetensors", build_model(marked).state_dict(), marked)
    assert load_weights(tmp_path / "a.safetensors").config.token_types
    with pytest.raises(WeightsError, match=r"unexpected backbone\.token_type_embed"):
        save_weights(tmp_path / "b.safetensors", build_model(marked).state_dict(), TINY)


def test_training_starts_from_weights_without_it(tmp_path):
    """And then the mark is small, but there."""
    save_weights(tmp_path / "a.safetensors", build_model(TINY).state_dict(), TINY)
    model = TrainingModel(TrainConfig(model=TINY.replace(token_types=True)))
    initialise(model, str(tmp_path / "a.safetensors"), TrainConfig(model=TINY.replace(token_types=True)))
    mark = model.network.backbone.token_type_embed
    assert 0.005 < mark.std() < 0.05
    expected = load_weights(tmp_path / "a.safetensors").state_dict
    assert all(torch.equal(value, expected[name]) for name, value in model.network.state_dict().items() if "token_type" not in name)
