"""The repulsion-only attention of the training network against the reference operator."""

import pytest
import torch

import esat_kernels
from engine.model.network import build_model
from engine.training.attention import RepulsionAttention, drop_attraction, repulsion_attention
from tests.engine.training.data import TINY


def tensors(tokens=17, dim=8, dtype=torch.float64):
    random = torch.Generator().manual_seed(tokens)
    return [torch.randn(2, 3, tokens, dim, generator=random, dtype=dtype) for _ in range(3)]


@pytest.mark.parametrize("tokens", [1, 17, 65])
def test_equals_the_reference_without_attraction(tokens):
    q, k, v = tensors(tokens)
    expected = esat_kernels.fda_attention(q, k, v, alpha=0.0, beta=0.3, delta=0.2, backend="reference")
    assert torch.allclose(repulsion_attention(q, k, v, beta=0.3, delta=0.2), expected, atol=1e-12)
    without = esat_kernels.fda_attention(q, k, v, alpha=0.0, beta=0.0, delta=0.2, backend="reference")
    assert tokens == 1 or not torch.allclose(expected, without, atol=1e-3)


def test_gradients_in_float64():
    inputs = [tensor[:1, :2].clone().requires_grad_() for tensor in tensors(4, dim=3)]
    assert torch.autograd.gradcheck(lambda q, k, v: repulsion_attention(q, k, v, beta=0.3, delta=0.2), inputs)


def test_network_is_the_same_but_for_the_attraction():
    config = TINY.replace(alpha=0.0)
    torch.manual_seed(0)
    network = build_model(config, backend="reference").double().eval()
    template, search = torch.randn(2, 3, 64, 64).double(), torch.randn(2, 3, 128, 128).double()
    names = list(network.state_dict())
    expected = network(template, search)
    drop_attraction(network)
    assert list(network.state_dict()) == names
    assert all(isinstance(block.attn, RepulsionAttention) for block in network.backbone.blocks)
    found = network(template, search)
    assert torch.equal(found.survivors[-1], expected.survivors[-1])
    assert torch.allclose(found.score_map, expected.score_map, atol=1e-6)
