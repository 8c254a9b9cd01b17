"""The attention's reference, its error budget, its operators and its errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from esat_kernels import fda_attention, fda_attention_with_scores, testing
from esat_kernels.attention.library import fda_backward, fda_forward

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
KINDS = ("normal", "near", "large", "plain")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_reference_meets_the_budget(kind: str, dtype: torch.dtype) -> None:
    case = testing.make_case(kind, 2, 2, 153, 64, dtype, strided=True)
    budget = testing.check(case, fda_attention(case.q, case.k, case.v, **case.constants, backend="reference"))
    assert budget.ok, budget


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_of_the_reference_meet_the_budget(dtype: torch.dtype) -> None:
    case = testing.make_case("near", 1, 2, 65, 64, dtype)
    q, k, v = (t.clone().requires_grad_() for t in (case.q, case.k, case.v))
    out = fda_attention(q, k, v, **case.constants, backend="reference")
    dout = testing.make_case("normal", 1, 2, 65, 64, dtype, seed=1).v
    grads = torch.autograd.grad(out, (q, k, v), dout)
    for name, budget in testing.check_gradients(case, dout, grads).items():
        assert budget.ok, (name, budget)


def _without_key_norms(case: testing.Case) -> torch.Tensor:
    """|k_j|^2 replaced by its mean: what a kernel makes that forgets the bias per key."""
    q, k, v = case.q.float(), case.k.float(), case.v.float()
    product = q @ k.mT
    r = case.delta * ((q * q).sum(-1, keepdim=True) - 2 * product + (k * k).sum(-1).mean()).clamp(min=0)
    return (torch.softmax(case.scale * product + case.alpha * torch.exp(-r) - case.beta * r, -1) @ v).to(case.v.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dropped", ["alpha", "beta", "delta", "key_norms"])
def test_a_dropped_term_breaks_the_budget_tenfold(dropped: str, dtype: torch.dtype) -> None:
    case = testing.make_case("near", 2, 3, 153, 64, dtype)
    if dropped == "key_norms":
        wrong = _without_key_norms(case)
    else:  # a kernel that ignores delta uses its default
        wrong = testing.yardstick(replace(case, **{dropped: 0.125 if dropped == "delta" else 0.0}))
    assert testing.check(case, wrong).excess > 10


def test_plain_attention_without_forces() -> None:
    case = testing.make_case("plain", 2, 2, 65, 64)
    plain = torch.nn.functional.scaled_dot_product_attention(case.q, case.k, case.v)
    torch.testing.assert_close(fda_attention(case.q, case.k, case.v, 0.0, 0.0, backend="reference"), plain)


def test_gradcheck_in_float64() -> None:
    case = testing.make_case("near", 1, 2, 7, 4, torch.float64)
    inputs = tuple(t.clone().requires_grad_() for t in (case.q, case.k, case.v))
    assert torch.autograd.gradcheck(lambda q, k, v: fda_attention(q, k, v, **case.constants, backend="reference"), inputs)


def test_backward_formulas_equal_automatic_differentiation() -> None:
    case = testing.make_case("near", 2, 2, 33, 8, torch.float64)
    dout = testing.make_case("normal", 2, 2, 33, 8, torch.float64, seed=1).v
    constants = tuple(case.constants.values())
    out, _, lse = fda_forward(case.q, case.k, case.v, *constants, 0, -1, "reference")
    grads = fda_backward(dout, case.q, case.k, case.v, out, lse, *constants, "reference")
    for got, expected in zip(grads, testing.oracle_gradients(case, dout), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("token", [-1, 5])
def test_operators_pass_opcheck(token: int, dtype: torch.dtype) -> None:
    case = testing.make_case("near", 1, 2, 17, 8, dtype, strided=True)
    q, k, v = (t.detach().requires_grad_() for t in (case.q, case.k, case.v))
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(fda_forward, (q, k, v, 0.5, 0.5, 0.1, 0.3, 8, token, "reference"), test_utils=tests)


def test_backward_operator_passes_opcheck() -> None:
    case = testing.make_case("near", 1, 2, 17, 8)
    out, _, lse = fda_forward(case.q, case.k, case.v, 0.5, 0.5, 0.1, 0.3, 0, -1, "reference")
    torch.library.opcheck(fda_backward, (torch.ones_like(out), case.q, case.k, case.v, out, lse, 0.5, 0.5, 0.1, 0.3, "reference"))


def golden(shared: Path) -> list[Path]:
    files = sorted((shared / "oracle").glob("attention_*.npz"))
    assert len(files) >= 3
    return files


def test_golden_files_of_the_public_code(shared: Path) -> None:
    for file in golden(shared):
        data = np.load(file)
        spec = json.loads(str(data["spec"]))
        constants = {name: spec[name] for name in ("alpha", "beta", "delta", "scale")}
        for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
            q, k, v = (torch.from_numpy(data[name]).to(dtype).requires_grad_() for name in "qkv")
            out, scores = fda_attention_with_scores(q, k, v, spec["num_template"], spec["template_token"], **constants, backend="reference")
            grads = torch.autograd.grad(out, (q, k, v), torch.from_numpy(data["dout"]).to(dtype))
            got = {"out": out, "dq": grads[0], "dk": grads[1], "dv": grads[2]}
            for name, value in got.items():
                largest = max(1.0, float(np.abs(data[name]).max()))
                assert np.abs(value.detach().double().numpy() - data[name]).max() <= tolerance * largest, (file.name, name, dtype)
            assert np.abs(scores.double().numpy() - data["scores"]).max() < 1e-6


def _tensor(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype)


GOOD = _tensor(1, 2, 8, 4)
BAD_CALLS = [
    ((_tensor(2, 8, 4),) * 3, {}, ValueError, r"query must be \[B, H, N, D\], got \(2, 8, 4\)"),
    ((GOOD, _tensor(1, 2, 7, 4), GOOD), {}, ValueError, r"key must be \(1, 2, 8, 4\), got \(1, 2, 7, 4\)"),
    ((GOOD, GOOD, _tensor(1, 2, 8, 5)), {}, ValueError, r"value must be \(1, 2, 8, 4\), got \(1, 2, 8, 5\)"),
    ((_tensor(1, 2, 0, 4),) * 3, {}, ValueError, "must not be empty"),
    ((GOOD, _tensor(1, 2, 8, 4, dtype=torch.float64), GOOD), {}, TypeError, "key must be torch.float32 like the query, got torch.float64"),
    ((_tensor(1, 2, 8, 4, dtype=torch.int32),) * 3, {}, TypeError, "dtype must be one of"),
    ((GOOD, GOOD.to("meta"), GOOD), {}, ValueError, "key must be on cpu like the query, got meta"),
    ((GOOD,) * 3, {"alpha": -0.1}, ValueError, "alpha must be zero or a positive number, got -0.1"),
    ((GOOD,) * 3, {"beta": float("nan")}, ValueError, "beta must be"),
    ((GOOD,) * 3, {"delta": float("inf")}, ValueError, "delta must be"),
    ((GOOD,) * 3, {"scale": 0.0}, ValueError, "scale must be a positive number, got 0.0"),
    ((GOOD,) * 3, {"backend": "gpu"}, ValueError, "backend must be auto, .*got 'gpu'"),
    ((GOOD.double(),) * 3, {"backend": "cpu"}, NotImplementedError, "backend 'cpu' cannot run: "),
]


@pytest.mark.parametrize(("inputs", "arguments", "error", "message"), BAD_CALLS)
def test_bad_calls_say_what_was_expected(inputs: tuple, arguments: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        fda_attention(*inputs, **arguments)


@pytest.mark.parametrize(("num_template", "token", "message"), [
    (0, 0, r"num_template must lie in \[1, 8\], got 0"),
    (9, 0, r"num_template must lie in \[1, 8\], got 9"),
    (4, 4, r"template_token must lie in \[0, 4\), got 4"),
    (4, -1, r"template_token must lie in \[0, 4\), got -1"),
])  # fmt: skip
def test_bad_token_numbers(num_template: int, token: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fda_attention_with_scores(GOOD, GOOD, GOOD, num_template, token)
