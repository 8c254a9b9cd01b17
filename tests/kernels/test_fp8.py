"""The eight-bit products' reference against float64, what a weight becomes, and errors."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

import esat_kernels
from esat_kernels import _device


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


def test_a_weight_of_another_width_is_refused():
    with pytest.raises(ValueError, match=r"expected \[N, K\] in multiples of 128, got \(128, 100\)"):
        esat_kernels.scaled_weight(torch.ones(128, 100))


@pytest.mark.parametrize(("capability", "reason"), [((8, 6), "need compute capability 8.9, got 8.6"), ((8, 9), None), ((12, 0), None)])
def test_which_devices_multiply_e4m3(capability, reason, monkeypatch):
    properties = SimpleNamespace(major=capability[0], minor=capability[1])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device=None: properties)
    found = _device.fp8_unavailable(torch.device("cuda"))
    assert (found is None) if reason is None else reason in found
    assert _device.fp8_unavailable(torch.device("cpu")) is None
