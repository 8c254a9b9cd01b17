"""The CPU's layers on every instruction set and dtype that the machine has, against float64."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from esat_kernels import _native
from esat_kernels.layers.convolution import Convolution, PackedConvolution, Raster, map_pixels
from esat_kernels.layers.encoder import Encoder, PackedLayer
from esat_kernels.linear.native import unsupported
from esat_kernels.linear.packing import huge_zeros, pack
from tests.kernels.layer_cases import INT8, PLAIN, engines, random_rows, threads_put_back, unpacked
from tests.require import require

plain, int8, engine = engines(PLAIN), engines(INT8), engines([*PLAIN, *INT8])
_threads = threads_put_back()


def _product(outputs: int, inputs: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(outputs, inputs, generator=generator) * inputs**-0.5, torch.randn(outputs, generator=generator) * 0.1


def _layer(dim: int, hidden: int, dtype: torch.dtype, int8: bool = False, seed: int = 0) -> PackedLayer:
    shapes = ((3 * dim, dim), (dim, dim), (hidden, dim), (dim, hidden))
    return PackedLayer.of(*(_product(*shape, seed + place) for place, shape in enumerate(shapes)), dtype, int8)


def _encoder(layers: list[PackedLayer], dim: int, dtype: torch.dtype, tokens: int, patch: Tensor | None = None) -> Encoder:
    gain_and_bias = _product(dim, 1, 9)
    return Encoder(pack(torch.eye(dim) if patch is None else patch, dtype), layers, (gain_and_bias[0].flatten(), gain_and_bias[1]), tokens)


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(1, 32, 32), (16, 32, 32), (48, 768, 96), (80, 96, 288), (411, 384, 1152), (37, 768, 64)]
)
@pytest.mark.parametrize("threads", [1, 2])
def test_product_equals_float64(plain, rows, inputs, outputs, threads):
    """`embed` is the plain product with an added fp32 term: only the sums' rounding separates it from float64."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(1)
    a = random_rows(rows, inputs, 2, plain.dtype)
    weight = torch.randn(outputs, inputs, generator=generator).to(plain.dtype).float()
    added = torch.randn(a.shape[0], outputs, generator=generator)
    encoder = _encoder([_layer(outputs, 32, plain.dtype)], outputs, plain.dtype, rows, weight)
    out = torch.full((a.shape[0], outputs), float("nan"))
    encoder.embed(a, added, out, rows)
    exact = added.double() + a.double() @ weight.double().t()
    assert (out - exact)[:rows].abs().max() < 1e-6 * inputs
    if plain.name == "fp32" and a.shape[0] > rows:
        assert out[rows:].isnan().all()  # only whole tiles write rows behind the last one
    again = torch.full_like(out, float("nan"))
    encoder.embed(a, added, again, rows)
    assert torch.equal(out[:rows], again[:rows])


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
    hidden, part = 4 * dim, 768
    assert _native.library().hidden_part(hidden) == part
    int8 = engine.name == "int8"
    layer, following = (_layer(dim, hidden, engine.dtype, int8, seed) for seed in (10, 20))
    encoder = _encoder([layer, following], dim, engine.dtype, tokens)
    attended, x = random_rows(80, dim, 4, engine.dtype), torch.randn(80, dim, generator=torch.Generator().manual_seed(5))
    qkv = huge_zeros((80, 3 * dim), engine.dtype)

    def norm(values: Tensor) -> Tensor:
        rows = torch.nn.functional.layer_norm(values, (dim,), eps=1e-6)
        return _quantised(rows.float()) if int8 else rows.to(engine.dtype).double()

    def weight(product) -> Tensor:
        return unpacked(product.weight) * (1 if product.column_scale is None else product.column_scale[:, None].double())

    def linear(values: Tensor, product) -> Tensor:
        return values @ weight(product).t() + product.bias.double()

    exact = x.double() + linear(attended.double(), layer.projection)
    inner = torch.nn.functional.gelu(linear(norm(exact), layer.mlp_in)).to(engine.dtype).double()
    if int8:
        inner = torch.cat([_quantised(columns.float()) for columns in inner.split(part, dim=1)], dim=1)
    exact = exact + linear(inner, layer.mlp_out)
    exact_qkv = linear(norm(exact), following.qkv)
    encoder.finish_layer(0, attended, x, qkv, tokens)
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
    none = torch.zeros(3 * dim, dim), torch.zeros(3 * dim)
    zero, identity = torch.zeros(dim, dim), (torch.eye(dim), torch.zeros(dim))
    layer = PackedLayer.of(none, (zero, torch.zeros(dim)), (zero, torch.full((dim,), value)), identity, plain.dtype)
    tokens = torch.zeros(16, dim)
    _encoder([layer], dim, plain.dtype, 16).finish_layer(0, huge_zeros((16, dim), plain.dtype), tokens, None, 16)
    exact = float(torch.nn.functional.gelu(torch.tensor(value, dtype=torch.float64)))
    assert (tokens == tokens[0, 0]).all()
    fit, slope = (6e-5, 1.4e-5) if plain.name == "bf16" else (8e-7, 2e-7)
    assert abs(float(tokens[0, 0]) - exact) <= fit + slope * max(0.0, abs(value) - 5.5) + abs(exact) * plain.unit


def test_qkv_and_the_last_norm_equal_float64(plain):
    dim = 96
    layer, x = _layer(dim, 64, plain.dtype), torch.randn(32, dim, generator=torch.Generator().manual_seed(1)) * 3 + 1
    encoder = _encoder([layer], dim, plain.dtype, 32)
    rows, out, places = (
        huge_zeros((32, 3 * dim), plain.dtype),
        huge_zeros((40, dim), plain.dtype),
        torch.arange(39, 9, -1, dtype=torch.int32),
    )
    encoder.qkv(0, x, rows, 30)
    encoder.normalise(x[:30], places, out)
    near = 0.02 if plain.name == "bf16" else 1e-5
    norm = torch.nn.functional.layer_norm(x[:30].double(), (dim,), eps=1e-6)
    exact = norm @ unpacked(layer.qkv.weight).t() + layer.qkv.bias.double()
    torch.testing.assert_close(rows[:30].double(), exact, rtol=near, atol=near)
    gain, bias = _product(dim, 1, 9)
    exact = norm * gain.flatten().double() + bias.double()
    torch.testing.assert_close(out[places].double(), exact, rtol=near, atol=near)
    assert (out[:10] == 0).all()


@pytest.mark.parametrize(("side", "inputs", "outputs"), [(3, 5, 40), (20, 96, 48)])  # shared out by panels and by rows
@pytest.mark.parametrize("threads", [1, 2])
def test_convolution_equals_float64(plain, side, inputs, outputs, threads):
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(outputs, inputs, 3, 3, generator=generator) * 0.1, torch.randn(outputs, generator=generator)
    width = side + 2
    packed = PackedConvolution.of(weight, bias, plain.dtype)
    convolution = Convolution(packed, Raster(width, (side - 1) * width + side, width + 1), width * width)
    image = torch.randn(inputs, side, side, generator=generator).to(plain.dtype)
    source = huge_zeros((map_pixels(width * width, width), packed.inputs), plain.dtype)
    source[: width * width, :inputs] = torch.nn.functional.pad(image, (1, 1, 1, 1)).flatten(1).t()
    valid = (torch.arange((side - 1) * width + side) % width < side).to(torch.uint8)
    got = convolution(source, valid)[: width * width].double().t().view(packed.outputs, width, width)
    exact = torch.nn.functional.conv2d(image.double()[None], weight.to(plain.dtype).double(), bias.double(), padding=1)[0].relu()
    torch.testing.assert_close(got[:outputs, 1:-1, 1:-1], exact, rtol=0.01 if plain.name == "bf16" else 1e-5, atol=1e-5 * inputs)
    assert got[:outputs, 1:-1, 1:-1].count_nonzero() == got.count_nonzero()  # the border, and channels that only pad, are zero


def _small(**changes) -> Encoder:
    given = {
        "patch": pack(torch.zeros(32, 64), FLOAT),
        "layers": [_layer(32, 64, FLOAT)],
        "norm": (torch.ones(32), torch.ones(32)),
        "tokens": 20,
    }
    return Encoder(**{**given, **changes})


def _with_bias(bias: Tensor) -> PackedLayer:
    layer = _layer(32, 64, FLOAT)
    return dataclasses.replace(layer, projection=dataclasses.replace(layer.projection, bias=bias))


def _convolution(pixels: int = 13, bias: Tensor | None = None) -> Convolution:
    packed = PackedConvolution.of(torch.zeros(32, 32, 3, 3), torch.zeros(32), FLOAT)
    return Convolution(packed if bias is None else dataclasses.replace(packed, bias=bias), Raster(5, pixels, 6), 25)


FLOAT, ROWS, WIDE = torch.float32, torch.zeros(32, 32), torch.zeros(32, 64)
BAD_CALLS = [
    (
        lambda: _small(layers=[_layer(64, 64, FLOAT)]),
        r"qkv must be \(96, 32\) in torch.float32, in 1 parts, got \(192, 64\) in torch.float32",
    ),
    (lambda: _small(layers=[_layer(32, 64, torch.bfloat16)]), "qkv must be .* in torch.float32, .* in torch.bfloat16"),
    (lambda: _small(layers=[_layer(32, 64, FLOAT), _layer(32, 96, FLOAT)]), r"mlp_in must be \(64, 32\)"),
    (
        lambda: _small(layers=[_with_bias(torch.zeros(32).double())]),
        r"projection must be .* got \[\(\(32,\), torch.float64\), None, None\]",
    ),
    (lambda: _small(layers=[_with_bias(torch.zeros(16))]), r"projection must be .* got \[\(\(16,\), torch.float32\), None, None\]"),
    (lambda: _small(norm=(torch.ones(32), torch.ones(31))), r"expected torch.float32 \[at least 32\], .* got torch.float32 \(31,\)"),
    (lambda: _small().embed(ROWS, ROWS, ROWS, 20), r"embed: expected torch.float32 \[at least 32, 64\], .* got torch.float32 \(32, 32\)"),
    (lambda: _small().embed(WIDE, ROWS, ROWS[:20], 20), r"expected torch.float32 \[at least 32, 32\], .* \(20, 32\)"),
    (lambda: _small().embed(WIDE.bfloat16(), ROWS, ROWS, 20), "got torch.bfloat16"),
    (lambda: _small().embed(WIDE.mT.contiguous().mT, ROWS, ROWS, 20), r"with strides \(1, 32\)"),
    (lambda: _small().embed(WIDE, ROWS, ROWS.to("meta"), 20), "on meta"),
    (lambda: _small().qkv(1, ROWS, ROWS, 20), "has 1 layers for 20 tokens, got layer 1 for 20"),
    (lambda: _small().qkv(0, ROWS, ROWS, 21), "got layer 0 for 21"),
    (lambda: _small().qkv(0, ROWS, ROWS, 20), r"qkv: expected torch.float32 \[at least 32, 96\]"),
    (lambda: _small().finish_layer(0, ROWS, ROWS, torch.zeros(32, 96), 20), "got layer 1 for 20"),
    (lambda: _small().finish_layer(-1, ROWS, ROWS, torch.zeros(32, 96), 20), "got layer -1 for 20"),
    (lambda: _small().finish_layer(-1, ROWS, ROWS, None, 20), "got layer -1 for 20"),
    (lambda: _small().finish_layer(0, ROWS, ROWS, None, 20, 8), "first must be a multiple of 16 below 20, got 8"),
    (lambda: _small().normalise(ROWS, torch.arange(32, dtype=torch.int32), ROWS[:31]), r"places must lie in \[0, 31\), got 0 to 31"),
    (lambda: _small().normalise(ROWS, torch.arange(31, dtype=torch.int32), ROWS), r"expected torch.int32 \[at least 32\]"),
    (lambda: _convolution(bias=torch.zeros(32).bfloat16()), r"expected torch.float32 \[at least 32\], .* got torch.bfloat16"),
    (lambda: _convolution(20), "outputs must lie within 25 pixels"),
    (lambda: _convolution()(torch.zeros(40, 32), torch.zeros(13, dtype=torch.uint8)), r"expected torch.float32 \[at least 41, 32\]"),
    (lambda: _convolution()(torch.zeros(41, 32), torch.zeros(13)), r"expected torch.uint8 \[at least 13\]"),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS)
def test_bad_calls(call, message):
    require("cpu", unsupported(FLOAT))
    with pytest.raises(ValueError, match=message):
        call()


def test_scales_of_int8_are_checked(int8):
    layer = _layer(64, 64, int8.dtype, int8=True)
    scale = layer.mlp_in.column_scale
    assert scale is not None
    _encoder([layer], 64, int8.dtype, 16)
    for other in (None, scale.double(), scale[:32]):
        wrong = dataclasses.replace(layer, mlp_in=dataclasses.replace(layer.mlp_in, column_scale=other))
        with pytest.raises(ValueError, match=r"encoder: mlp_in must be .* bias, scales and sums"):
            _encoder([wrong], 64, int8.dtype, 16)


def test_what_a_processor_lacks_is_told(monkeypatch):
    require("cpu", _native.unavailable())
    monkeypatch.setenv("ESAT_CPU", "portable")
    assert unsupported(FLOAT) == "there are no products in torch.float32 for portable"
    assert unsupported(FLOAT, int8=True) == "there are no products of int8 with results in torch.float32 for portable"
    for make in (_small, _convolution, lambda: _layer(32, 64, FLOAT, int8=True)):
        with pytest.raises(NotImplementedError, match=r"there are no products .* torch.float32 for portable"):
            make()
