"""The GPU engine's network on the CPU: equal to the PyTorch model, by both kinds of product, alone and in a batch."""

from __future__ import annotations

import pytest
import torch

import esat_kernels
from conformance.golden import patch_rows
from engine.config import ModelConfig
from engine.runners.gpu.choices import Choices, choices_for
from engine.runners.gpu.head import Head
from engine.runners.gpu.network import GpuNetwork, Kernels
from engine.runners.gpu.products import Product
from engine.runners.gpu.weights import fold_weights
from tests.engine.runners.gpu import models

CPU = torch.device("cpu")
FUSED, LIBRARY = Choices(False, 1 << 30), Choices(False, 0, {}, "library")


def images(config: ModelConfig, batch: int):
    generator = torch.Generator().manual_seed(batch)
    return [torch.randn(batch, 3, size, size, generator=generator) for size in (config.template_size, config.search_size)]


def run(weights, template, search, dtype=torch.float32):
    network = GpuNetwork(weights, CPU, dtype, Kernels.of("reference"))
    inputs = network.inputs(len(search))
    with torch.no_grad():
        for index, patches in enumerate(patch_rows(template).to(dtype)):
            encoded = network.encode_template(patches)
            for part, value in zip(inputs, encoded, strict=True):
                part[index, : network.config.num_template] = value
        inputs.tokens[:, network.config.num_template :] = float("nan")  # whatever an earlier frame left there
        return network.run(patch_rows(search).to(dtype), inputs)


@pytest.mark.parametrize(
    "changes", [{}, {"elimination_layers": ()}, {"keep_ratio": 1.0}, {"elimination_layers": (0, 3)}, {"alpha": 0.0, "beta": 0.0}]
)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_network_equals_the_model(changes, batch):
    weights = models.weights(**changes)
    template, search = images(weights.config, batch)
    with torch.no_grad():
        expected = weights.model("reference")(template, search)
    seen = run(weights, template, search)
    for name, map_ in seen.maps._asdict().items():
        torch.testing.assert_close(map_, getattr(expected, f"{name}_map"), rtol=0, atol=2e-5 * (10 if name == "offset" else 1))
        assert map_.is_contiguous()
    if expected.survivors:
        assert torch.equal(seen.kept, expected.survivors[-1])
    else:
        assert seen.kept is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_no_further_from_float32_than_autocast(dtype):
    """Without elimination, whose ranking of random weights' near ties rounding would decide."""
    weights = models.weights(keep_ratio=1.0)
    template, search = images(weights.config, 2)
    model = weights.model("reference")
    with torch.no_grad():
        exact = model(template, search)
        with torch.autocast("cpu", dtype):
            rounded = model(template, search)
    seen = run(weights, template, search, dtype)
    for name, map_ in seen.maps._asdict().items():
        ours = (map_ - getattr(exact, f"{name}_map")).abs().mean()
        theirs = (getattr(rounded, f"{name}_map").float() - getattr(exact, f"{name}_map")).abs().mean()
        assert ours <= 1.2 * theirs


@pytest.mark.parametrize("convolutions", ["own", "library"])
def test_the_head_equals_the_models_head(convolutions):
    weights = models.weights()
    config = weights.config
    head = weights.model("reference").box_head
    features = torch.randn(2, config.num_search, config.dim, generator=torch.Generator().manual_seed(1))
    folded = fold_weights(weights.state_dict, config, CPU, torch.float32, LIBRARY, "reference")
    with torch.no_grad():
        found = Head(folded.head, config.search_grid, convolutions, "reference")(features)
        score, size, offset = head(features.transpose(1, 2).unflatten(2, (config.search_grid, config.search_grid)))
    for map_, expected in zip(found, (score, size, offset), strict=True):
        torch.testing.assert_close(map_, expected, rtol=1e-5, atol=1e-5)


def _head_and_features():
    weights = models.weights()
    folded = fold_weights(weights.state_dict, weights.config, CPU, torch.float32, LIBRARY, "reference").head
    features = torch.randn(1, weights.config.num_search, weights.config.dim, generator=torch.Generator().manual_seed(1))
    return Head(folded, weights.config.search_grid, "library", "reference"), features


def test_a_convolution_without_an_engine_in_cudnn_runs_by_pytorch(monkeypatch):
    """It is asked for once; the others stay with cuDNN, and the maps are the same."""
    head, features = _head_and_features()
    expected, asked, convolve = head(features), [], torch.conv2d

    def conv2d(*arguments, groups, **options):
        asked.append((groups, torch.backends.cudnn.enabled))
        if groups > 1 and torch.backends.cudnn.enabled:
            raise RuntimeError("GET was unable to find an engine to execute this computation")
        return convolve(*arguments, groups=groups, **options)

    monkeypatch.setattr(torch, "conv2d", conv2d)
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(head(features), expected, strict=True))
    assert torch.backends.cudnn.enabled
    assert asked == [(1, True), *[(3, True), (3, False)] * 3, (1, True), *[(3, False)] * 3]


@pytest.mark.parametrize("error", [RuntimeError("expected scalar type"), torch.OutOfMemoryError("cuDNN: out of memory")])
def test_other_errors_of_a_convolution_are_not_hidden(monkeypatch, error):
    head, features = _head_and_features()

    def conv2d(*_, **__):
        raise error

    monkeypatch.setattr(torch, "conv2d", conv2d)
    with pytest.raises(RuntimeError, match=str(error)):
        head(features)


@pytest.mark.parametrize("choices", [FUSED, LIBRARY], ids=["fused", "library"])
@pytest.mark.parametrize(
    ("norm", "gelu", "residual"), [(True, False, False), (True, True, False), (False, False, True), (False, False, False)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_equals_float64(choices, norm, gelu, residual, dtype):
    generator = torch.Generator().manual_seed(2)
    x, added = torch.randn(2, 5, 48, generator=generator) + 1, torch.randn(2, 5, 24, generator=generator)
    weight, bias = (torch.randn(*shape, generator=generator).to(dtype) for shape in ((24, 48), (24,)))
    out = Product(weight, bias, choices, "reference", norm, gelu)(x, added if residual else None)
    exact = torch.nn.functional.layer_norm(x.double(), (48,), eps=1e-6) if norm else x.double()
    exact = torch.nn.functional.linear(exact, weight.double(), bias.double())
    exact = torch.nn.functional.gelu(exact) if gelu else exact
    exact = exact + added.double() if residual else exact
    assert out.dtype == (torch.float32 if residual else dtype)
    error = (out.double() - exact).abs()
    scale = exact.abs().max()
    assert error.max() <= (1e-6 if dtype == torch.float32 else 2e-2) * scale
    assert error.mean() <= (1e-7 if dtype == torch.float32 else 4e-3) * scale


def test_a_residual_does_not_change_in_place():
    added = torch.ones(4, 8)
    Product(torch.eye(8), torch.zeros(8), LIBRARY, "reference")(torch.ones(4, 8), added)
    assert torch.equal(added, torch.ones(4, 8))


def test_choices_are_by_shape_then_by_rows():
    choices = Choices(True, 100, {"343x768x768": "fused", "50x768x768": "library"})
    assert [choices.of_product(rows, 768, 768) for rows in (343, 50, 100, 101)] == ["fused", "library", "fused", "library"]
    assert not choices_for(CPU).verified  # the default is a guess


@pytest.mark.parametrize("fused", [True, False])
def test_attention_gets_the_norms_of_its_keys_from_the_product(fused, monkeypatch):
    """As far as no GPU is needed: the operator of the CUDA kernel is the reference, and is asked what it was given."""
    weights = models.weights()
    config = weights.config
    monkeypatch.setattr("engine.runners.gpu.network.choices_for", lambda device: FUSED if fused else LIBRARY)
    given = []

    def spy(function):
        def call(q, k, v, *scores, backend, key_norms, **forces):
            assert backend == "cuda"
            given.append((k, key_norms))
            return function(q, k, v, *scores, backend="reference", **forces)

        return call

    for name in ("fda_attention", "fda_attention_with_scores"):
        monkeypatch.setattr(esat_kernels, name, spy(getattr(esat_kernels, name)))
    network = GpuNetwork(weights, CPU, torch.bfloat16, Kernels("cuda", "reference"))
    with torch.no_grad():
        patches = torch.randn(2, config.num_search, 768, generator=torch.Generator().manual_seed(1)).bfloat16()
        network.run(patches, network.inputs(2))
    assert len(given) == config.depth
    assert given[0][1] is None  # a part of these keys is the template's
    for k, norms in given[1:]:
        if fused:
            torch.testing.assert_close(norms.double(), k.double().square().sum(-1), rtol=1e-6, atol=0)
        else:
            assert norms is None
