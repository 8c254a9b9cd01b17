"""The eight-bit products' reference against float64, what a weight becomes, and errors."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import esat_kernels
from esat_kernels import _device
from esat_kernels.linear import fp8, triton, triton_fp8


def test_a_weight_and_its_scales():
    weight = torch.randn(128, 256, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 6, 128).unsqueeze(1)
    weight[5] = 0.0
    values, scales, sums = esat_kernels.scaled_weight(weight)
    back = values.float() * scales.unsqueeze(1)
    assert ((back - weight).abs() <= torch.maximum(weight.abs() * 2**-4, scales.unsqueeze(1) * 2**-10) * 1.0001).all()
    assert (values.float().abs().amax(1)[torch.arange(128) != 5] == 448).all()
    groups = sums.float().sum(0) * scales.unsqueeze(1)
    torch.testing.assert_close(groups[:, :2], weight.unflatten(1, (2, 128)).sum(2), rtol=1e-4, atol=0)
    assert (groups[:, 2:] == 0).all()


@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_an_mlp_in_eight_bits(mean):
    """What is left between products, one after the other, is the MLP within the roundings of e4m3: 2.6 percent of each operand."""
    generator = torch.Generator().manual_seed(1)
    tokens, x = torch.randn(2, 20, 128, generator=generator) * 4 + mean, torch.randn(2, 20, 128, generator=generator)
    projection = (torch.randn(128, 128, generator=generator) * 128**-0.5).bfloat16()
    first, second = (torch.randn(shape, generator=generator) * shape[1] ** -0.5 for shape in ((256, 128), (128, 256)))
    middle, last = torch.empty(2, 20, 128), torch.empty(2, 20, 128)
    left, between = esat_kernels.scaled_memory(middle, 128, True), esat_kernels.scaled_memory(middle, 256, False)
    centred = esat_kernels.centred_memory(last)
    esat_kernels.linear_fp8(x.bfloat16(), projection, residual=tokens, out=middle, leave=left)
    esat_kernels.linear_fp8(left, esat_kernels.scaled_weight(first), norm_eps=1e-6, activation="gelu", leave=between)
    esat_kernels.linear_fp8(between, esat_kernels.scaled_weight(second), residual=middle, out=last, leave=centred)
    torch.testing.assert_close(middle, x.bfloat16().float() @ projection.float().T + tokens, rtol=1e-6, atol=1e-5)
    exact = functional.gelu(functional.layer_norm(middle, (128,), eps=1e-6) @ first.T) @ second.T
    assert (last - middle - exact).abs().mean() <= 0.06 * exact.abs().mean()
    torch.testing.assert_close(centred.rows.float().unflatten(2, (2, 64)) + centred.statistics[0].view(2, 20, 2, 1),
                               last.unflatten(2, (2, 64)), rtol=2**-8, atol=0.05)  # fmt: skip


X, WEIGHT, OUT = torch.zeros(1, 3, 128, dtype=torch.bfloat16), torch.zeros(128, 128, dtype=torch.bfloat16), torch.zeros(1, 3, 128)
LEFT = esat_kernels.scaled_memory(OUT, 128, False)
SCALED_WEIGHT = esat_kernels.scaled_weight(torch.ones(128, 128))


@pytest.mark.parametrize(
    ("x", "weight", "changes", "error", "message"),
    [
        (X[..., :96], WEIGHT[:, :96], {}, ValueError, "multiples of 128, got 128, 96"),
        (X, WEIGHT[:, :64], {}, ValueError, r"expected x \[B, n, K\] and weight \[N, K\], got \(1, 3, 128\) and \(128, 64\)"),
        (LEFT, WEIGHT, {}, TypeError, "both have scales, or neither"),
        (X, SCALED_WEIGHT, {}, TypeError, "both have scales, or neither"),
        (X.float(), WEIGHT, {}, TypeError, "must be torch.bfloat16 without scales, got torch.float32"),
        (LEFT, SCALED_WEIGHT, {"norm_eps": 1e-6}, ValueError, "norm_eps and an x with statistics belong together"),
        (X, WEIGHT, {"activation": "tanh"}, ValueError, "activation must be None, 'gelu' or 'relu', got 'tanh'"),
        (X, WEIGHT, {"out": None}, ValueError, "nothing would be left"),
        (X, WEIGHT, {"out": OUT[:, :2]}, ValueError, r"out must be \(1, 3, 128\) on cpu"),
        (X, WEIGHT, {"out": OUT.half()}, TypeError, "out must be torch.float32 or torch.bfloat16, got torch.float16"),
        (X, WEIGHT, {"residual": OUT[0]}, ValueError, r"residual must be \(1, 3, 128\)"),
        (X, WEIGHT, {"bias": OUT[0, 0, :5]}, ValueError, r"bias must be \(128,\) on cpu, got \(5,\)"),
        (X, WEIGHT, {"backend": "cuda"}, NotImplementedError, "has no kernel for this operation"),
    ],
)
def test_refusals(x, weight, changes, error, message):
    with pytest.raises(error, match=message):
        esat_kernels.linear_fp8(x, weight, **{"out": OUT, **changes})


NORMED, WIDE_WEIGHT = esat_kernels.scaled_memory(OUT, 256, True), esat_kernels.scaled_weight(torch.ones(384, 256))
WIDE = torch.zeros(1, 3, 384)
PARTS = {
    "weight.scales": (384,),
    "weight.group_sums": (2, 384, 16),
    "x.scales": (2, 3),
    "x.statistics": (3, 3, 2),
    "leave.rows": (1, 3, 384),
    "leave.scales": (3, 3),
    "leave.statistics": (3, 3, 3),
    "centred.rows": (1, 3, 384),
    "centred.statistics": (3, 3, 6),
    "bias": (384,),
}
OPTIONAL = ("x.statistics", "leave.statistics", "bias")


def product(name: str, change: Callable[[Tensor], Tensor | None]) -> None:
    """A product of every kind of part, one of them changed."""
    left, centred = esat_kernels.scaled_memory(OUT, 384, True), esat_kernels.centred_memory(WIDE)
    given = {"x": NORMED, "weight": WIDE_WEIGHT, "bias": torch.zeros(384), "leave": left, "centred": centred}
    owner, _, part = name.partition(".")
    if part:
        given[owner] = given[owner]._replace(**{part: change(getattr(given[owner], part))})
    else:
        given[owner] = change(given[owner])
    leave, centred = given.pop("leave"), given.pop("centred")
    esat_kernels.linear_fp8(**given, norm_eps=1e-6, out=WIDE, leave=centred if owner == "centred" else leave)


def apart(tensor: Tensor) -> Tensor:
    """The same values, each two elements behind the one before."""
    return torch.stack([tensor.float()] * 2, -1).to(tensor.dtype)[..., 0]


@pytest.mark.parametrize("name", PARTS)
def test_every_part_is_what_the_kernels_take_it_for(name):
    product(name, lambda part: part)
    shape, called = re.escape(str(PARTS[name])), re.escape(name.replace("centred", "leave"))
    with pytest.raises(ValueError, match=rf"{called} must be {shape} on cpu, got \(.*\) on cpu"):
        product(name, lambda part: part[..., :-1].contiguous())
    with pytest.raises(ValueError, match=rf"{called} must be {shape} on cpu, got {shape} on meta"):
        product(name, lambda part: part.to("meta"))
    with pytest.raises(ValueError, match=rf"{called} must be contiguous, got {shape} with strides"):
        product(name, apart)
    with pytest.raises(TypeError, match=rf"{called} must be torch\..*, got torch.float16"):
        product(name, Tensor.half)
    if name not in OPTIONAL:
        with pytest.raises(TypeError, match=rf"{called} must be a tensor {shape}, got NoneType"):
            product(name, lambda part: None)


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        ("x.rows", apart, ValueError, "rows must be adjacent in themselves"),
        ("x.rows", lambda rows: None, TypeError, "must be tensors, or a `Scaled` and a `ScaledWeight` of tensors, got NoneType and Tensor"),
        ("x", lambda x: esat_kernels.centred_memory(WIDE[..., :256]), TypeError, "got Centred and Tensor"),
        ("x.rows", Tensor.bfloat16, TypeError, "x and weight must be torch.float8_e4m3fn with scales, got torch.bfloat16"),
        ("x.rows", lambda rows: rows.expand(2, -1, -1), ValueError, r"x.rows must be contiguous, got \(2, 3, 256\) with strides \(0,"),
        ("weight.values", apart, ValueError, "rows must be adjacent in themselves"),
        ("weight.values", lambda values: values.to("meta"), ValueError, "weight must be on cpu like x, got meta"),
        ("leave.rows", Tensor.bfloat16, TypeError, "leave.rows must be torch.float8_e4m3fn, got torch.bfloat16"),
        ("centred.rows", lambda rows: rows.to(fp8.E4M3), TypeError, "leave.rows must be torch.bfloat16, got torch.float8_e4m3fn"),
        ("centred.statistics", lambda found: found[..., ::2].contiguous(), ValueError, r"leave.statistics must be \(3, 3, 6\)"),
    ],
)
def test_parts_that_do_not_belong_together(name, change, error, message):
    with pytest.raises(error, match=message):
        product(name, change)


def test_weights_and_memory_of_another_kind_are_refused():
    with pytest.raises(ValueError, match=r"expected \[N, K\] in multiples of 128, got \(128, 100\)"):
        esat_kernels.scaled_weight(torch.ones(128, 100))
    with pytest.raises(TypeError, match=r"weight must be torch\.float32, got torch\.bfloat16"):
        esat_kernels.scaled_weight(torch.ones(128, 128, dtype=torch.bfloat16))
    for columns in (200, 0):
        with pytest.raises(ValueError, match=f"columns must be a multiple of 128, got {columns}"):
            esat_kernels.scaled_memory(OUT, columns, False)


def test_rows_have_numbers_of_32_bits(monkeypatch):
    """Of all items together."""
    monkeypatch.setattr(triton_fp8._triton, "unsupported", lambda *tensors: None)
    many = torch.zeros(1, 1, 128).expand(2**15, 2**16, -1)
    assert triton_fp8.unsupported(many[1:], WEIGHT, None, None) is None
    assert "neither rows nor columns may exceed 2147483392, got (32768, 65536, 128)" in triton_fp8.unsupported(many, WEIGHT, None, None)
    assert triton.unsupported(many[1:], WEIGHT, None, None) is None
    assert "neither rows nor columns may exceed 2147483392, got (32768, 65536, 128)" in triton.unsupported(many, WEIGHT, None, None)


@pytest.mark.parametrize(("capability", "reason"), [((8, 6), "need compute capability 8.9, got 8.6"), ((8, 9), None), ((12, 0), None)])
def test_which_devices_multiply_e4m3(capability, reason, monkeypatch):
    properties = SimpleNamespace(major=capability[0], minor=capability[1])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device=None: properties)
    found = _device.fp8_unavailable(torch.device("cuda"))
    assert (found is None) if reason is None else reason in found
    assert _device.fp8_unavailable(torch.device("cpu")) is None
