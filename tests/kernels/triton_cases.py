"""What the Triton attention kernels have to meet, on a GPU or in the interpreter: test_triton_gpu.py and test_triton.py collect these."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import esat_kernels
from esat_kernels import testing
from esat_kernels.attention import triton, triton_tiles
from esat_kernels.attention.common import Scores
from esat_kernels.attention.library import fda_forward
from esat_kernels.attention.triton_tiles import Tiles
from tests.kernels.triton_device import BFLOAT16, DEVICE, FLOAT16, FLOAT32, INTERPRETED
from tests.kernels.triton_device import nan_in_fresh_memory as nan_in_fresh_memory  # a fixture of every test here

TOKENS = [720, 548, 427, 343, 320, 244, 190, 153, 719, 721, 1, 15, 16, 17, 63, 64, 65, 79, 80, 81]


def run(case, backend="triton", **changes):
    """out, scores and lse of the case on the device, back on the CPU; token 0 of max(1, N // 5) template tokens decides."""
    inputs = [testing.move(t, DEVICE) for t in (case.q, case.k, case.v)]
    results = triton.forward(*inputs, case.forces._replace(**changes), Scores(max(1, case.q.shape[2] // 5), 0))
    return tuple(t.cpu() for t in results)


def check(case):
    out, scores, lse = run(case)
    budget = testing.check(case, out)
    assert budget.ok, budget
    exact_lse = testing.oracle(case)[1]
    assert lse.dtype == FLOAT32
    torch.testing.assert_close(lse.double(), exact_lse, rtol=2e-6, atol=2e-5 + 4e-7 * float((case.q.double() ** 2).sum(-1).max()))
    exact_scores = testing.oracle_scores(case, max(1, case.q.shape[2] // 5), 0)
    torch.testing.assert_close(scores.double(), exact_scores, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("tokens", TOKENS)
def test_sizes(tokens):
    check(testing.make_case("near", heads=1, tokens=tokens, dtype=BFLOAT16, seed=tokens))


@pytest.mark.parametrize("kind", ["normal", "near", "large", "plain"])
@pytest.mark.parametrize(
    ("dtype", "head_dim"), [(BFLOAT16, 32), (BFLOAT16, 96), (FLOAT16, 64), (FLOAT16, 128), (FLOAT32, 64), (FLOAT32, 96)]
)
def test_kinds_and_head_dimensions(kind, dtype, head_dim):
    check(testing.make_case(kind, heads=2, tokens=81, head_dim=head_dim, dtype=dtype, seed=head_dim))


@pytest.mark.parametrize("head_dim", [8, 20, 72])
def test_odd_head_dimensions(head_dim):
    check(testing.make_case("near", heads=1, tokens=65, head_dim=head_dim, dtype=BFLOAT16))


@pytest.mark.parametrize("tiles", [Tiles(128, 64, 8, 3), Tiles(64, 64, 4, 3), Tiles(32, 64, 4, 3), Tiles(32, 16, 8, 2)])
def test_every_tile_shape(tiles, monkeypatch):
    monkeypatch.setattr(triton_tiles, "forward_tiles", lambda *_: tiles)
    check(testing.make_case("near", heads=1, tokens=153, dtype=BFLOAT16))


def test_batches_and_strided_views():
    case = testing.make_case("near", batch=3, heads=2, tokens=97, dtype=BFLOAT16, strided=True)
    assert not case.q.is_contiguous()
    check(case)


def test_an_inner_stride():
    case = testing.make_case("near", heads=1, tokens=33, dtype=BFLOAT16)
    transposed = dataclasses.replace(case, k=case.k.transpose(2, 3).contiguous().transpose(2, 3))
    assert transposed.k.stride(3) == 33
    check(transposed)


def test_nothing_is_read_beyond_the_last_token():
    case = testing.make_case("near", heads=1, tokens=97, dtype=BFLOAT16)

    def surrounded(t):
        return torch.full((1, 1, 160, 96), float("nan"), dtype=t.dtype)[:, :, 20:117, 16:80].copy_(t)

    walled = dataclasses.replace(case, q=surrounded(case.q), k=surrounded(case.k), v=surrounded(case.v))
    check(walled)
    assert torch.equal(run(walled)[0], run(case)[0])


@pytest.mark.parametrize("term", ["alpha", "beta", "delta"])
def test_a_dropped_term_breaks_the_budget_tenfold(term):
    case = testing.make_case("near", heads=1, tokens=153, dtype=BFLOAT16)
    assert testing.check(case, run(case, **{term: 0.0})[0]).excess > 10


def test_a_strong_attraction_does_not_overflow():
    case = dataclasses.replace(testing.make_case("near", heads=1, tokens=97, dtype=FLOAT16), alpha=60.0)
    check(case)


@pytest.mark.parametrize(
    ("kind", "tokens", "head_dim", "dtype"),
    [
        ("near", 153, 64, BFLOAT16),
        ("normal", 343, 64, BFLOAT16),
        ("plain", 65, 64, BFLOAT16),
        ("near", 64, 96, FLOAT16),
        ("near", 81, 32, FLOAT32),
        ("near", 33, 96, FLOAT32),
        ("large", 47, 64, FLOAT32),
        ("near", 1, 64, BFLOAT16),
    ],
)
def test_gradients(kind, tokens, head_dim, dtype):
    case = testing.make_case(kind, batch=2 if tokens < 100 else 1, heads=1, tokens=tokens, head_dim=head_dim, dtype=dtype, strided=True)
    dout = torch.randn(case.q.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    q, k, v = (testing.move(t, DEVICE).requires_grad_() for t in (case.q, case.k, case.v))
    out = esat_kernels.fda_attention(q, k, v, **case.constants, backend="triton")
    grads = torch.autograd.grad(out, (q, k, v), dout.to(DEVICE))
    budgets = testing.check_gradients(case, dout, tuple(g.cpu() for g in grads))
    for budget in budgets.values():
        # The probabilities come from a float32 log-sum-exp, whose own rounding the yardstick's softmax does not have.
        slack = 8 if dtype == FLOAT32 else 1
        assert budget.max_error <= slack * budget.max_allowed, budgets
        assert budget.mean_error <= slack * budget.mean_allowed, budgets


def test_same_bits_every_time():
    case = testing.make_case("near", heads=2, tokens=153, dtype=BFLOAT16)
    first = run(case)
    for _ in range(2 if INTERPRETED else 1000):
        assert all(torch.equal(a, b) for a, b in zip(first, run(case), strict=True))


def test_the_public_call_and_its_layout():
    case = testing.make_case("near", batch=2, heads=2, tokens=40, dtype=BFLOAT16)
    inputs = [testing.move(t, DEVICE) for t in (case.q, case.k, case.v)]
    out, scores = esat_kernels.fda_attention_with_scores(*inputs, num_template=8, template_token=3, **case.constants, backend="triton")
    assert out.transpose(1, 2).is_contiguous()
    assert scores.shape == (2, 32)
    torch.testing.assert_close(scores.cpu().double(), testing.oracle_scores(case, 8, 3), rtol=1e-4, atol=1e-7)
    only_template = esat_kernels.fda_attention_with_scores(*inputs, num_template=40, template_token=3, backend="triton")[1]
    assert only_template.shape == (2, 0)


def test_the_operator_keeps_its_promises():
    case = testing.make_case("near", heads=2, tokens=20, head_dim=32, dtype=BFLOAT16, strided=True)
    inputs = tuple(testing.move(t, DEVICE) for t in (case.q, case.k, case.v))
    for with_lse in (True, False):
        arguments = (*inputs, *case.constants.values(), 4, 1, "triton", with_lse)
        torch.library.opcheck(fda_forward, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((1, 1, 8, 64), torch.float64, "dtype must be bfloat16, float16 or float32, got torch.float64"),
        ((1, 1, 8, 129), FLOAT32, "the head dimension must lie in [1, 128], got 129"),
        ((65536, 1, 1, 16), FLOAT16, "batch times heads must be at most 65535, got 65536"),
    ],
)
def test_refusals(shape, dtype, message):
    x = torch.zeros(shape, dtype=dtype, device=DEVICE)
    with pytest.raises(NotImplementedError) as error:
        esat_kernels.fda_attention(x, x, x, backend="triton")
    assert message in str(error.value)
