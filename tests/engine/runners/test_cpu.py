"""The CPU engine on every instruction set and dtype that the machine has: parts against float64, the whole against golden values (fp32) or
within what PyTorch's own bf16 reaches."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import accuracy
from benchmarks.peers.frame import patch_rows
from conformance import golden
from engine import Tracker
from engine.config import ModelConfig
from engine.datasets.layouts import open_dataset
from engine.errors import DeviceError, EsatWarning
from engine.model.head import CenterHead
from engine.runners.choice import make_runner
from engine.runners.cpu.head import Head
from engine.runners.cpu.network import CpuNetwork, unsupported
from engine.runners.cpu.runner import CpuRunner
from engine.runners.cpu.weights import PackedProduct, huge_zeros, pack, pack_weights
from engine.runners.protocol import DTYPES
from engine.runners.pytorch import TorchRunner
from engine.weights import DEFAULT_MODEL, find_weights, load_weights
from engine.weights.io import Weights
from esat_kernels import _native
from tests.require import require


class Engine(NamedTuple):
    """One set of kernels, forced by ESAT_CPU for the length of a test."""

    kernels: Any
    name: str  # "fp32", "bf16" or "int8"
    dtype: torch.dtype  # of the activations
    unit: float  # relative rounding error of a stored activation


def _engine(param: str, monkeypatch) -> Engine:
    name, isa = param.split("-")
    require("cpu", _native.unavailable())
    require(isa, None if isa in _native.cpu_sets() else f"this machine has {', '.join(_native.cpu_sets())}")
    monkeypatch.setenv("ESAT_CPU", isa)
    dtype = DTYPES[name] if name != "int8" else torch.bfloat16 if isa in ("avx512bf16", "amx", "neonbf16") else torch.float32
    dtype_name = str(dtype).removeprefix("torch.")
    operation = f"products int8, {dtype_name} around" if name == "int8" else f"products {dtype_name}"
    assert {row.operation: row.chosen for row in _native.kernel_table()}[operation] == isa
    kernels = _native.library().kernels(dtype_name)
    return Engine(kernels, name, dtype, torch.finfo(dtype).eps)


PLAIN = ["fp32-avx2", "fp32-avx512", "bf16-avx512bf16", "bf16-amx", "fp32-neon", "bf16-neonbf16"]
INT8 = [f"int8-{name}" for name in ("avx2", "avx2vnni", "avx512vnni", "avx512bf16", "amx", "neondot", "neoni8mm", "neonbf16")]


@pytest.fixture(params=PLAIN)
def plain(request, monkeypatch) -> Engine:
    return _engine(request.param, monkeypatch)


@pytest.fixture(params=INT8)
def int8(request, monkeypatch) -> Engine:
    return _engine(request.param, monkeypatch)


@pytest.fixture(params=[*PLAIN, *INT8])
def engine(request, monkeypatch) -> Engine:
    return _engine(request.param, monkeypatch)


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _rows(count: int, width: int, seed: int, dtype: torch.dtype, pad: int = 16) -> Tensor:
    """Rows of random values, with whole tiles behind them."""
    rows = huge_zeros((-(-count // pad) * pad, width), dtype)
    return rows.copy_(torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int8])
def test_packing_puts_each_weight_where_the_header_says(dtype):
    weight = torch.arange(70 * 70, dtype=torch.float32).view(70, 70) % 127
    packed = pack(weight, dtype)
    lane, step = 4 // dtype.itemsize, 64 if dtype == torch.int8 else 32
    assert packed.shape == (3, -(-70 // step), 2, step // lane, 16, lane)
    assert packed.data_ptr() % 64 == 0
    for n, k in ((0, 0), (31, 33), (69, 69), (17, 1), (40, 65)):
        assert packed[n // 32, k // step, n % 32 // 16, k % step // lane, n % 16, k % lane] == weight[n, k]
    assert packed.float().sum() == weight.sum()  # the padding is zero


def test_int8_weights_are_rounded_to_half_a_step_of_each_output():
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(1)) * torch.logspace(-3, 3, 64)[:, None]
    weight[5] = 0
    product = PackedProduct.int8(weight, torch.zeros(64), 64)
    assert product.column_scale is not None
    assert product.column_sum is not None
    rounded = _unpacked(product.weight)
    step = weight.abs().amax(dim=1) / 127
    assert ((rounded * product.column_scale[:, None] - weight).abs().amax(dim=1) <= 0.5001 * step).all()
    assert torch.equal(product.column_sum.double(), torch.stack([rounded[:, :64].sum(1), rounded[:, 64:].sum(1)]))


def test_int8_weights_whose_pairs_are_limited_lose_little():
    weight = torch.randn(64, 384, generator=torch.Generator().manual_seed(1)) * torch.logspace(-3, 3, 64)[:, None]
    weight[0], weight[1], weight[2] = 0, 1, weight[2].abs()

    def rounded(limit: int) -> tuple[Tensor, Tensor]:
        product = PackedProduct.int8(weight, torch.zeros(64), 384, limit)
        assert product.column_scale is not None
        assert product.column_sum is not None
        integers = _unpacked(product.weight)
        assert torch.equal(product.column_sum[0].double(), integers.sum(1))
        return integers, (integers * product.column_scale[:, None] - weight).pow(2).sum(1)

    integers, error = rounded(128)
    assert (integers.view(64, -1, 2).sum(2).abs() <= 128).all()
    assert integers.abs().max() <= 127
    free, least = rounded(254)
    assert (free.view(64, -1, 2).sum(2).abs() > 128).any()
    step = weight.abs().amax(dim=1) / 63
    seven_bits = ((weight / step.clamp_min(1e-30)[:, None]).round() * step[:, None] - weight).pow(2).sum(1)
    assert error[3:].sum() < 0.5 * seven_bits[3:].sum()
    assert error[3:].sum() < 2 * least[3:].sum()
    assert error[0] == 0
    assert error[1] < 384 * (0.51 / 64) ** 2  # weights alike, all of which the limit concerns


def _unpacked(weight: Tensor) -> Tensor:
    panels, steps, _, lanes, _, lane = weight.shape
    return weight.permute(0, 2, 4, 1, 3, 5).reshape(panels * 32, steps * lanes * lane).double()


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(1, 32, 32), (16, 32, 32), (48, 768, 96), (80, 96, 288), (411, 384, 1152), (37, 768, 64)]
)
@pytest.mark.parametrize("threads", [1, 2])
def test_product_equals_float64(plain, rows, inputs, outputs, threads):
    """`embed` is the plain product with an added fp32 term: only the sums' rounding separates it from float64."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(1)
    a = _rows(rows, inputs, 2, plain.dtype)
    weight = torch.randn(outputs, inputs, generator=generator).to(plain.dtype).float()
    packed = pack(weight, plain.dtype)
    added = torch.randn(a.shape[0], outputs, generator=generator)
    out = torch.full((a.shape[0], outputs), float("nan"))
    layer = [[packed.data_ptr(), added.data_ptr(), 0, 0]] * 4
    encoder = _native.library().encoder(plain.kernels, outputs, 32, inputs, packed.data_ptr(), [layer], [0] * 5)
    encoder.embed(a.data_ptr(), rows, added.data_ptr(), out.data_ptr())
    exact = added.double() + a.double() @ weight.double().t()
    assert (out - exact)[:rows].abs().max() < 1e-6 * inputs
    if plain.name == "fp32" and a.shape[0] > rows:
        assert out[rows:].isnan().all()  # only whole tiles write rows behind the last one
    again = torch.full_like(out, float("nan"))
    encoder.embed(a.data_ptr(), rows, added.data_ptr(), again.data_ptr())
    assert torch.equal(out[:rows], again[:rows])


def _weights(**changes) -> Weights:
    config = ModelConfig(
        name="test", dim=192, heads=6, depth=4, template_size=128, search_size=160, head_channels=48, elimination_layers=(1, 2)
    )
    return golden.draw_weights(config.replace(**changes), 3, 2.0, Path("test"))


def _quantised(rows: Tensor) -> Tensor:
    """What csrc/linear/quantise.h makes of float32 rows, widened again."""
    low, high = rows.amin(1, keepdim=True).clamp_max(0), rows.amax(1, keepdim=True).clamp_min(0)
    step = (high - low) / 255
    zero = (-low / step).round()
    return ((rows / step).round() + zero).clamp(0, 255).sub(zero).double() * step.double()


@pytest.mark.parametrize("dim", [384, 768])
@pytest.mark.parametrize("tokens", [64, 75])
def test_layer_equals_float64(engine, tokens, dim):
    """LayerNorm, projection, MLP with GELU, residuals, and the next q, k, v, against the same layer in float64 on the same rounded weights."""
    weights = _weights(dim=dim, heads=dim // 64)
    hidden, part = 4 * dim, 768
    assert _native.library().hidden_part(hidden) == part
    int8 = engine.name == "int8"
    limits = (part, engine.kernels.int8_pair_limit) if int8 else ()
    packed = pack_weights(weights.state_dict, weights.config, engine.dtype, *limits)
    attended, x = _rows(80, dim, 4, engine.dtype), torch.randn(80, dim, generator=torch.Generator().manual_seed(5))
    qkv, hidden_rows = (huge_zeros((80, width), engine.dtype) for width in (3 * dim, part))
    tiles = huge_zeros((80, dim), torch.uint8 if int8 else engine.dtype)
    quantised, scales = huge_zeros((80, part), torch.uint8), huge_zeros((2, 80, 2), torch.int32)
    work = [buffer.data_ptr() for buffer in (tiles, hidden_rows, quantised, *scales)]
    encode = _native.library().int8_encoder if int8 else _native.library().encoder
    encoder = encode(engine.kernels, dim, hidden, 768, 0, [layer.addresses() for layer in packed.layers], work)

    def norm(values: Tensor) -> Tensor:
        rows = torch.nn.functional.layer_norm(values, (dim,), eps=1e-6)
        return _quantised(rows.float()) if int8 else rows.to(engine.dtype).double()

    def weight(product) -> Tensor:
        return _unpacked(product.weight) * (1 if product.column_scale is None else product.column_scale[:, None].double())

    def linear(values: Tensor, product) -> Tensor:
        return values @ weight(product).t() + product.bias.double()

    layer, following = packed.layers[1], packed.layers[2]
    exact = x.double() + linear(attended.double(), layer.projection)
    inner = torch.nn.functional.gelu(linear(norm(exact), layer.mlp_in)).to(engine.dtype).double()
    if int8:
        inner = torch.cat([_quantised(columns.float()) for columns in inner.split(part, dim=1)], dim=1)
    exact = exact + linear(inner, layer.mlp_out)
    exact_qkv = linear(norm(exact), following.qkv)
    encoder.finish_layer(1, attended.data_ptr(), x.data_ptr(), 0, tokens, qkv.data_ptr())
    scale = exact.abs().max()
    rough = engine.name != "fp32"
    assert (x - exact)[:tokens].abs().max() < (4e-3 if rough else 2e-6) * scale  # a bf16 that rounds the other way is 2^-8 of one term
    assert (x - exact)[:tokens].abs().mean() < (2e-4 if rough else 2e-7) * scale
    assert (qkv.double() - exact_qkv)[:tokens].abs().max() < (2e-2 if rough else 4e-6) * exact_qkv.abs().max()
    assert (qkv.double() - exact_qkv)[:tokens].abs().mean() < (2e-3 if rough else 4e-7) * exact_qkv.abs().max()


@pytest.mark.parametrize("value", [-20.0, -5.5, -3.0, -0.7, 0.0, 0.3, 1.0, 2.5, 4.2, 5.5, 30.0])
def test_gelu_is_the_exact_one(plain, value):
    """A layer of zeros and an identity shows GELU of a bias alone: the stated error and the rounding of the result."""
    dim = 32
    zero, identity = pack(torch.zeros(3 * dim, dim), plain.dtype), pack(torch.eye(dim), plain.dtype)
    no_bias = torch.zeros(3 * dim)
    bias, tokens = torch.full((dim,), value), torch.zeros(16, dim)
    layer = [(zero, no_bias), (zero, no_bias), (zero, bias), (identity, no_bias)]
    addresses = [[weight.data_ptr(), shift.data_ptr(), 0, 0] for weight, shift in layer]
    rows, tiles, hidden = (huge_zeros((16, dim), plain.dtype) for _ in range(3))
    work = [tiles.data_ptr(), hidden.data_ptr(), 0, 0, 0]
    encoder = _native.library().encoder(plain.kernels, dim, dim, dim, 0, [addresses], work)
    encoder.finish_layer(0, rows.data_ptr(), tokens.data_ptr(), 0, 16, 0)
    exact = float(torch.nn.functional.gelu(torch.tensor(value, dtype=torch.float64)))
    assert (tokens == tokens[0, 0]).all()
    fit, slope = (6e-5, 1.4e-5) if plain.name == "bf16" else (8e-7, 2e-7)
    assert abs(float(tokens[0, 0]) - exact) <= fit + slope * max(0.0, abs(value) - 5.5) + abs(exact) * plain.unit


def _head_case(engine: Engine, seed: int = 6) -> tuple[Head, CenterHead, Tensor, ModelConfig]:
    weights = _weights(dim=96, heads=3)
    config = weights.config
    head = Head(engine.kernels, pack_weights(weights.state_dict, config, engine.dtype).branches, config)
    reference = CenterHead(config).eval()
    reference.load_state_dict({k.removeprefix("box_head."): v for k, v in weights.state_dict.items() if k.startswith("box_head.")})
    features = torch.randn(config.num_search, config.dim, generator=torch.Generator().manual_seed(seed)).to(engine.dtype)
    features[::3] = 0
    head.features[head.places] = features
    image = features.float().t().reshape(1, config.dim, config.search_grid, config.search_grid)
    return head, reference, image, config


def test_head_equals_the_reference_head_at_every_cell(plain):
    """Offset and size from a 9 x 9 window are those of the whole map, borders and corners included."""
    head, reference, image, config = _head_case(plain)
    with torch.inference_mode():
        score, size, offset = reference(image)
    near = 0.03 if plain.name == "bf16" else 1e-5
    assert (head.score() - score[0, 0]).abs().max() < near
    for cell in range(config.num_search):
        seen_offset, seen_size = head.offset_and_size(cell)
        y, x = divmod(cell, config.search_grid)
        assert (seen_offset - offset[0, :, y, x]).abs().max() < near * offset.abs().max()
        assert (seen_size - size[0, :, y, x]).abs().max() < near


@pytest.mark.parametrize("name", ["small_plain", "small_fda", "small_fda_paper"])
def test_forward_equals_the_golden_values(plain, shared, name):
    """fp32 within 1e-4 with the same tokens removed; bf16 as near as PyTorch's."""
    path = shared / "oracle" / f"{name}.npz"
    content = dict(np.load(path))
    spec = json.loads(str(content["spec"]))
    config = golden.model_config(spec)
    weights = golden.draw_weights(config, spec["seed"], spec["gain"], path)
    template, search = golden.draw_images(spec["zs"], spec["xs"], spec["seed"])
    network = CpuNetwork(weights, plain.name)
    network.patches.copy_(patch_rows(search, plain.dtype))
    network.run(network.encode_template(patch_rows(template, plain.dtype)))
    golden_score = torch.from_numpy(content["score_map"]).flatten()
    cell = int(golden_score.argmax())
    offset, size = network.head.offset_and_size(cell)
    offset_error = (offset - torch.from_numpy(content["offset_map"]).view(2, -1)[:, cell]).abs().max()
    size_error = (size - torch.from_numpy(content["size_map"]).view(2, -1)[:, cell]).abs().max()
    removed = _removed(network, config)
    golden_removed = [set(content[f"removed_{index}"].flatten().tolist()) for index in range(len(removed))]
    if plain.name == "fp32":
        assert (network.head.score().flatten() - golden_score).abs().max() < 1e-4
        assert max(offset_error, size_error) < 1e-4
        assert removed == golden_removed
        return
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        peer = weights.model("reference")(template, search)
    error = (network.head.score().flatten() - golden_score).abs().mean()
    assert error < 1.5 * (peer.score_map.float().flatten() - golden_score).abs().mean() + 0.005
    for mine, theirs in zip(removed, golden_removed, strict=True):
        assert len(mine & theirs) >= 0.9 * len(theirs)
    assert offset_error < 0.25
    assert size_error < 0.05


def _removed(network: CpuNetwork, config: ModelConfig) -> list[set[int]]:
    """The search tokens that each elimination of the last frame took away."""
    alive, removed = set(range(config.num_search)), []
    for survivors in network.survivors:
        removed.append(alive - set(survivors.tolist()))
        alive = set(survivors.tolist())
    return removed


def test_the_choice_of_the_engine(engine):
    weights = _weights()
    runner = make_runner(weights, "cpu", engine.name)
    assert isinstance(runner, CpuRunner)
    assert runner.dtype == engine.name
    auto = make_runner(weights, "cpu")
    assert isinstance(auto, CpuRunner)
    assert auto.dtype == ("bf16" if engine.dtype == torch.bfloat16 else "fp32")  # int8 is taken only where it is asked for
    if engine.name == "int8":
        with pytest.raises(DeviceError, match="int8 runs on the CPU engine only: another device or backend"):
            make_runner(weights, "cpu", "int8", "reference")
    else:
        assert isinstance(make_runner(weights, "cpu", engine.name, "reference"), TorchRunner)


def test_what_the_engine_cannot_do_goes_to_pytorch_with_a_reason(monkeypatch):
    require("cpu", _native.unavailable())
    weights = _weights()
    monkeypatch.setenv("ESAT_CPU", "portable")
    assert unsupported(weights.config, "fp32") == "fp32 needs a processor with AVX2 or NEON, the kernels use portable"
    assert unsupported(weights.config, "bf16") == "bf16 needs a processor with bf16 and AVX-512 or NEON, the kernels use portable"
    assert "fp32, bf16, int8, not in fp16" in (unsupported(weights.config, "fp16") or "")
    with pytest.raises(DeviceError, match="int8 needs a processor with AVX2 or NEON's dot products, the kernels use portable"):
        make_runner(weights, "cpu", "int8")
    runner = make_runner(weights, "cpu")
    assert isinstance(runner, TorchRunner)
    assert runner.dtype == "fp32"


def test_the_runner_sees_what_pytorch_in_float32_sees(plain):
    """Over several frames: random weights leave near ties among tokens and cells, which PyTorch's own bf16 decides otherwise as often."""
    weights = _weights()
    runners = [make_runner(weights, "cpu", plain.name), make_runner(weights, "cpu", "fp32", "reference")]
    box, scores, cosines, common, kept = (120.0, 80.0, 50.0, 40.0), [], [], 0, 0
    for seed in range(6):
        small = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        frame = np.kron(small, np.ones((20, 20, 1), np.uint8))
        templates = [runner.encode_template(frame, box, True) for runner in runners]
        seen = [
            runner.observe(frame, [box, (10.0, 10.0, 60.0, 60.0)], [template] * 2, True).targets
            for runner, template in zip(runners, templates, strict=True)
        ]
        for low, high in zip(*seen, strict=True):
            assert low.region_side == high.region_side
            scores.append(abs(low.score - high.score))
            cosines.append(low.features @ high.features / (np.linalg.norm(low.features) * np.linalg.norm(high.features)))
            common += len(set(low.kept_tokens.tolist()) & set(high.kept_tokens.tolist()))
            kept += len(high.kept_tokens)
    if plain.name == "bf16":
        assert common >= 0.94 * kept
        assert np.mean(scores) < 0.05
        assert np.median(cosines) > 0.99
    else:
        assert common == kept
        assert max(scores) < 1e-4
        assert min(cosines) > 1 - 1e-5


def test_int8_boxes_agree_with_float32_on_real_frames(int8, shared):
    """The shipped weights, on the same search regions: the budget for a faster mode is a mean IoU of 0.97."""
    weights = find_weights(DEFAULT_MODEL)
    runners = [make_runner(weights, "cpu", mode) for mode in ("fp32", "int8")]
    findings = [accuracy.Findings(runner.dtype) for runner in runners]
    for sequence in open_dataset(shared / "data" / "eval_dev").sequences:
        if sequence.scored:
            accuracy.compare(sequence, runners, findings, 6)
    row = findings[1].row(findings[0])
    assert row["frames"] >= 50
    assert row["same_region_iou"] >= 0.97
    assert row["kept_overlap"] >= 0.96


def test_frames_repeat_to_the_bit(engine):
    tracker = Tracker(make_runner(_weights(), "cpu", engine.name))
    frame = np.random.default_rng(8).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    results = []
    for _ in range(2):
        tracker.init(frame, (40, 30, 50, 40))
        results.append([tracker.update(frame).box for _ in range(3)])
    assert results[0] == results[1]


def test_results_do_not_depend_on_the_number_of_threads(engine):
    network = CpuNetwork(_weights(dim=384, heads=6), engine.name)
    template, search = golden.draw_images(128, 160, 9)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        network.patches.copy_(patch_rows(search, engine.dtype))
        seen = network.run(network.encode_template(patch_rows(template, engine.dtype)))
        found.append((seen._replace(features=seen.features.tolist()), network.head.score().clone()))
    assert found[0][0] == found[1][0] == found[2][0]
    assert torch.equal(found[0][1], found[1][1])
    assert torch.equal(found[0][1], found[2][1])


def test_models_that_do_not_fit_the_products_run_elsewhere(engine):
    config = ModelConfig(name="odd", dim=48, heads=3, depth=1, template_size=64, search_size=64, elimination_layers=())
    assert "multiples" in (unsupported(config, engine.name) or "")


def test_a_named_dtype_that_only_pytorch_computes_is_told(tiny_weights, monkeypatch):
    monkeypatch.delenv("ESAT_CPU", raising=False)
    weights = load_weights(tiny_weights)
    require("cpu", unsupported(weights.config, "fp32"))
    with pytest.warns(
        EsatWarning, match="dtype fp16 will be slow, since PyTorch computes it here: .*not in fp16; dtype fp32, or auto"
    ) as told:
        assert isinstance(make_runner(weights, "cpu", "fp16"), TorchRunner)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dtype, backend in (("auto", "auto"), ("fp32", "auto"), ("fp16", "reference")):
            make_runner(weights, "cpu", dtype, backend)
