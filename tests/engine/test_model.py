"""Properties of the network that the golden files (`benchmarks.parity`) do not show."""

import pytest
import torch

from engine import ModelConfig, build_model

SMALL = ModelConfig(name="small", dim=48, heads=3, head_channels=16, template_size=64, search_size=128)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_model(SMALL).eval().requires_grad_(False)


def _images(batch=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, 64, 64, generator=generator), torch.randn(batch, 3, 128, 128, generator=generator)


def test_shapes_and_ranges(network):
    prediction = network(*_images())
    assert prediction.score_map.shape == (2, 1, 8, 8)
    assert prediction.size_map.shape == prediction.offset_map.shape == (2, 2, 8, 8)
    assert prediction.template_features.shape == (2, 48, 4, 4)
    assert prediction.box.shape == (2, 4)
    for probabilities in (prediction.score_map, prediction.size_map):
        assert 1e-4 <= probabilities.min() <= probabilities.max() <= 1 - 1e-4


def test_elimination_leaves_zeros_exactly_where_tokens_were_removed(network):
    prediction = network(*_images())
    assert [survivors.shape[1] for survivors in prediction.survivors] == [45, 32, 23]
    for before, after in zip(prediction.survivors, prediction.survivors[1:], strict=False):
        assert all(set(a.tolist()) < set(b.tolist()) for a, b in zip(after, before, strict=True))
    kept = torch.zeros(2, 64, dtype=torch.bool).scatter(1, prediction.survivors[-1], True)
    assert torch.equal(prediction.search_features.flatten(2).abs().sum(1) > 0, kept)


def test_a_keep_ratio_of_one_eliminates_nothing(network):
    prediction = network(*_images(), keep_ratio=1.0)
    assert prediction.survivors == []
    assert bool((prediction.search_features.flatten(2).abs().sum(1) > 0).all())


def test_items_of_a_batch_do_not_see_each_other(network):
    template, search = _images()
    together, alone = network(template, search), network(template[1:], search[1:])
    assert torch.allclose(together.score_map[1:], alone.score_map, atol=1e-6)
    assert torch.equal(together.survivors[-1][1:], alone.survivors[-1])


def test_force_constants_change_the_result(network):
    plain = build_model(SMALL.replace(alpha=0.0, beta=0.0)).eval()
    plain.load_state_dict(network.state_dict())
    assert not torch.allclose(plain(*_images()).template_features, network(*_images()).template_features, atol=1e-3)


def test_gradients_reach_every_parameter_that_training_uses():
    torch.manual_seed(0)
    network = build_model(SMALL)
    prediction = network(*_images())
    (prediction.score_map.sum() + prediction.box.sum() + prediction.template_features.square().sum()).backward()
    # The prediction's box reads one cell of the offset and size maps, so every parameter takes part.
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
