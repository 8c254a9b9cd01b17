"""The CPU engine against the float32 reference: parts exactly, the whole within what PyTorch's own bf16 reaches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import golden
from engine import Tracker
from engine.config import ModelConfig
from engine.cpu.head import Head
from engine.cpu.network import AmxNetwork, unsupported
from engine.cpu.runner import CpuRunner
from engine.cpu.weights import huge_zeros, pack, pack_weights
from engine.engines import make_runner
from engine.model.head import CenterHead
from engine.torch_runner import TorchRunner
from engine.weights.io import Weights
from esat_kernels import _native
from tests.require import require


@pytest.fixture(scope="module")
def library():
    reason = _native.unavailable()
    if reason is None and _native.cpu_isa() != "amx":
        reason = f"no AMX tiles, this processor has {_native.cpu_isa()}"
    require("amx", reason)
    return _native.library()


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _rows(count: int, width: int, seed: int, pad: int = 16) -> Tensor:
    """Rows of bf16 values, with whole tiles behind them."""
    rows = huge_zeros((-(-count // pad) * pad, width), torch.bfloat16)
    return rows.copy_(torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed)))


def test_packing_puts_each_weight_where_the_header_says():
    weight = torch.arange(70 * 40, dtype=torch.float32).view(70, 40) % 251
    packed = pack(weight)
    assert packed.shape == (3, 2, 2, 16, 16, 2)
    assert packed.data_ptr() % 64 == 0
    for n, k in ((0, 0), (31, 33), (69, 39), (17, 1)):
        assert packed[n // 32, k // 32, n % 32 // 16, k % 32 // 2, n % 16, k % 2] == weight[n, k]
    assert packed.float().sum() == weight.sum()  # the padding is zero


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(16, 32, 32), (48, 768, 96), (80, 96, 288), (160, 384, 1152), (37, 768, 64)])
@pytest.mark.parametrize("threads", [1, 2])
def test_product_equals_float64(library, rows, inputs, outputs, threads):
    """`embed` is the plain product with an added fp32 term: only the sums' rounding separates it from float64."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(1)
    a = _rows(rows, inputs, 2)
    weight = torch.randn(outputs, inputs, generator=generator).bfloat16().float()
    packed = pack(weight)
    added = torch.randn(a.shape[0], outputs, generator=generator)
    out = torch.full((a.shape[0], outputs), float("nan"))
    layer = [packed.data_ptr()] * 4 + [added.data_ptr()] * 4
    encoder = library.Encoder(outputs, 32, inputs, [layer])
    encoder.embed(a.data_ptr(), rows, inputs, packed.data_ptr(), added.data_ptr(), out.data_ptr())
    exact = added.double() + a.double() @ weight.double().t()
    assert (out - exact).abs().max() < 1e-6 * inputs
    again = torch.full_like(out, float("nan"))
    encoder.embed(a.data_ptr(), rows, inputs, packed.data_ptr(), added.data_ptr(), again.data_ptr())
    assert torch.equal(out, again)


def _weights(**changes) -> Weights:
    config = ModelConfig(
        name="test", dim=96, heads=3, depth=4, template_size=128, search_size=160, head_channels=48, elimination_layers=(1, 2)
    )
    return golden.draw_weights(config.replace(**changes), 3, 2.0, Path("test"))


@pytest.mark.parametrize("tokens", [64, 75])
def test_layer_equals_float64_within_bf16(library, tokens):
    """LayerNorm, projection, MLP with GELU, residuals, and the next q, k, v, against the same layer in float64 on the same bf16 weights."""
    weights = _weights(dim=384, heads=6)
    packed = pack_weights(weights.state_dict, weights.config)
    dim, hidden = 384, 1536
    encoder = library.Encoder(dim, hidden, 768, [layer.addresses() for layer in packed.layers])
    assert encoder.hidden_part(hidden) == 768
    attended, x = _rows(80, dim, 4), torch.randn(80, dim, generator=torch.Generator().manual_seed(5))
    qkv, tiles, hidden_rows = (huge_zeros((80, width), torch.bfloat16) for width in (3 * dim, dim, 768))

    def norm(values: Tensor) -> Tensor:
        return torch.nn.functional.layer_norm(values, (dim,), eps=1e-6).bfloat16().double()

    def weight(product) -> Tensor:
        panels, steps = product.weight.shape[:2]
        return product.weight.permute(0, 2, 4, 1, 3, 5).reshape(panels * 32, steps * 32).double()

    def linear(values: Tensor, product) -> Tensor:
        return values @ weight(product).t() + product.bias.double()

    layer, following = packed.layers[1], packed.layers[2]
    exact = x.double() + linear(attended.double(), layer.projection)
    inner = torch.nn.functional.gelu(linear(norm(exact), layer.mlp_in)).bfloat16().double()
    exact = exact + linear(inner, layer.mlp_out)
    exact_qkv = linear(norm(exact), following.qkv)
    encoder.finish_layer(1, attended.data_ptr(), x.data_ptr(), 0, tokens, qkv.data_ptr(), tiles.data_ptr(), hidden_rows.data_ptr())
    scale = exact.abs().max()
    assert (x - exact)[:tokens].abs().max() < 4e-3 * scale  # a bf16 activation that rounds the other way is 2^-8 of one term
    assert (x - exact)[:tokens].abs().mean() < 2e-4 * scale
    assert (qkv.double() - exact_qkv)[:tokens].abs().max() < 2e-2 * exact_qkv.abs().max()
    assert (qkv.double() - exact_qkv)[:tokens].abs().mean() < 2e-3 * exact_qkv.abs().max()


@pytest.mark.parametrize("value", [-20.0, -5.5, -3.0, -0.7, 0.0, 0.3, 1.0, 2.5, 4.2, 5.5, 30.0])
def test_gelu_is_the_exact_one(library, value):
    """A layer of zeros and an identity shows GELU of a bias alone: the stated error and bf16's rounding of the result."""
    dim = 32
    zero, identity, no_bias = pack(torch.zeros(3 * dim, dim)), pack(torch.eye(dim)), torch.zeros(3 * dim)
    bias, tokens = torch.full((dim,), value), torch.zeros(16, dim)
    layer = [zero, zero, zero, identity, no_bias, no_bias, bias, no_bias]
    encoder = library.Encoder(dim, dim, dim, [[tensor.data_ptr() for tensor in layer]])
    rows, tiles, hidden = (huge_zeros((16, dim), torch.bfloat16) for _ in range(3))
    encoder.finish_layer(0, rows.data_ptr(), tokens.data_ptr(), 0, 16, 0, tiles.data_ptr(), hidden.data_ptr())
    exact = float(torch.nn.functional.gelu(torch.tensor(value, dtype=torch.float64)))
    assert (tokens == tokens[0, 0]).all()
    assert abs(float(tokens[0, 0]) - exact) <= 6e-5 + 1.4e-5 * max(0.0, abs(value) - 5.5) + abs(exact) * 2**-8


def _head_case(seed: int = 6) -> tuple[Head, CenterHead, Tensor, ModelConfig]:
    weights = _weights()
    config = weights.config
    head = Head(pack_weights(weights.state_dict, config).branches, config)
    reference = CenterHead(config).eval()
    reference.load_state_dict({k.removeprefix("box_head."): v for k, v in weights.state_dict.items() if k.startswith("box_head.")})
    features = torch.randn(config.num_search, config.dim, generator=torch.Generator().manual_seed(seed)).bfloat16()
    features[::3] = 0
    head.features[head.places] = features
    image = features.float().t().reshape(1, config.dim, config.search_grid, config.search_grid)
    return head, reference, image, config


def test_head_equals_the_reference_head_at_every_cell(library):
    """Offset and size from a 9 x 9 window are those of the whole map, borders and corners included."""
    head, reference, image, config = _head_case()
    with torch.inference_mode():
        score, size, offset = reference(image)
    assert (head.score() - score[0, 0]).abs().max() < 0.03
    for cell in range(config.num_search):
        seen_offset, seen_size = head.offset_and_size(cell)
        y, x = divmod(cell, config.search_grid)
        assert (seen_offset - offset[0, :, y, x]).abs().max() < 0.03 * offset.abs().max()
        assert (seen_size - size[0, :, y, x]).abs().max() < 0.03


@pytest.mark.parametrize("name", ["small_plain", "small_fda", "small_fda_paper"])
def test_forward_stays_as_near_to_the_golden_values_as_pytorch_in_bf16(library, shared, name):
    path = shared / "oracle" / f"{name}.npz"
    content = dict(np.load(path))
    spec = json.loads(str(content["spec"]))
    config = golden.model_config(spec)
    weights = golden.draw_weights(config, spec["seed"], spec["gain"], path)
    require("amx", unsupported(config))
    template, search = golden.draw_images(spec["zs"], spec["xs"], spec["seed"])
    network = AmxNetwork(weights)
    network.patches.copy_(_patches(search))
    network.run(network.encode_template(_patches(template)))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        peer = weights.model("reference")(template, search)
    golden_score = torch.from_numpy(content["score_map"]).flatten()
    error = (network.head.score().flatten() - golden_score).abs().mean()
    assert error < 1.5 * (peer.score_map.float().flatten() - golden_score).abs().mean() + 0.005
    alive = set(range(config.num_search))
    for index, survivors in enumerate(network.survivors):
        golden_removed = set(content[f"removed_{index}"].flatten().tolist())
        removed = alive - set(survivors.tolist())
        assert len(removed & golden_removed) >= 0.9 * len(golden_removed)
        alive = set(survivors.tolist())
    cell = int(golden_score.argmax())
    offset, size = network.head.offset_and_size(cell)
    assert (offset - torch.from_numpy(content["offset_map"]).view(2, -1)[:, cell]).abs().max() < 0.25
    assert (size - torch.from_numpy(content["size_map"]).view(2, -1)[:, cell]).abs().max() < 0.05


def _patches(image: Tensor) -> Tensor:
    """Normalised image [1, 3, S, S] -> bf16 [(S / 16)^2, 768]."""
    side = image.shape[-1] // 16
    return image[0].view(3, side, 16, side, 16).permute(1, 3, 0, 2, 4).reshape(side * side, 768).bfloat16()


def test_auto_takes_the_amx_engine_and_its_boxes_stay_near_float32(library):
    weights = _weights()
    require("amx", unsupported(weights.config))
    assert isinstance(make_runner(weights, "cpu"), CpuRunner)
    assert isinstance(make_runner(weights, "cpu", "fp32"), TorchRunner)
    assert isinstance(make_runner(weights, "cpu", "bf16", "reference"), TorchRunner)
    rng = np.random.default_rng(7)
    frame = np.kron(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), np.ones((20, 20, 1), np.uint8))
    fast, exact = make_runner(weights, "cpu"), make_runner(weights, "cpu", "fp32")
    seen = []
    for runner in (fast, exact):
        box = (120.0, 80.0, 50.0, 40.0)
        template = runner.encode_template(frame, box, True)
        seen.append(runner.observe(frame, [box, (10.0, 10.0, 60.0, 60.0)], [template, template], True))
    for low, high in zip(seen[0].targets, seen[1].targets, strict=True):
        assert low.region_side == high.region_side
        assert low.score == pytest.approx(high.score, abs=0.05)
        assert len(set(low.kept_tokens.tolist()) & set(high.kept_tokens.tolist())) >= 0.9 * len(high.kept_tokens)


def test_frames_repeat_to_the_bit(library):
    weights = _weights()
    require("amx", unsupported(weights.config))
    tracker = Tracker(make_runner(weights, "cpu"))
    frame = np.random.default_rng(8).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    results = []
    for _ in range(2):
        tracker.init(frame, (40, 30, 50, 40))
        results.append([tracker.update(frame).box for _ in range(3)])
    assert results[0] == results[1]


def test_results_do_not_depend_on_the_number_of_threads(library):
    weights = _weights(dim=384, heads=6)
    require("amx", unsupported(weights.config))
    network = AmxNetwork(weights)
    template, search = golden.draw_images(128, 160, 9)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        network.patches.copy_(_patches(search))
        found.append((network.run(network.encode_template(_patches(template))), network.head.score().clone()))
    assert found[0][0] == found[1][0] == found[2][0]
    assert torch.equal(found[0][1], found[1][1])
    assert torch.equal(found[0][1], found[2][1])


def test_models_that_do_not_fit_the_tiles_run_elsewhere(library):
    config = ModelConfig(name="odd", dim=48, heads=3, depth=1, template_size=64, search_size=64, elimination_layers=())
    assert "multiples" in (unsupported(config) or "")
