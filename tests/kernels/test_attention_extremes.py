"""The CPU attention kernels where numbers end: NaN, infinities, scores and squares beyond float32, on every instruction set."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from esat_kernels import _native, testing
from tests.kernels.attention_cases import DTYPES, gradients, isas, run
from tests.require import require


@pytest.fixture(autouse=True)
def _native_library() -> None:
    require("cpu", _native.unavailable())


isa = isas()

# The bits of NaN: the usual one, and payloads that an exponent added to them would turn into numbers.
NANS = {torch.float32: (0x7FC00000, 0x7FFFFFFF, -1, 0x7FC00001), torch.bfloat16: (0x7FC0, -1), torch.float16: (0x7E00, -1)}


def with_nan(case: testing.Case, place: str, bits: int) -> testing.Case:
    """The case with one number of query, key or value 3 of head 0 replaced."""
    tensor = getattr(case, place).clone()
    tensor.view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)[0, 0, 3, 5] = bits
    assert tensor.isnan().sum() == 1
    return replace(case, **{place: tensor})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("place", ["q", "k", "v"])
def test_not_a_number_stays_visible(isa: str, place: str, dtype: torch.dtype) -> None:
    """NaN wherever the formula gives it, and nowhere else."""
    for alpha in (1.0, 0.0):
        for bits in NANS[dtype]:
            case = with_nan(replace(testing.make_case("near", 1, 2, 65, 64, dtype), alpha=alpha), place, bits)
            out, scores, lse, _ = run(case, 13, 3)
            expected, expected_lse = testing.oracle(case)
            assert expected.isnan().any()
            assert torch.equal(out.isnan(), expected.isnan())
            assert torch.equal(lse.isnan(), expected_lse.isnan())
            assert torch.equal(scores.isnan(), testing.oracle_scores(case, 13, 3).isnan())
            assert (out - expected).nan_to_num().abs().max() < (1e-5 if dtype == torch.float32 else 0.05)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("place", ["q", "k", "v", "dout"])
def test_not_a_number_stays_visible_in_gradients(isa: str, place: str, dtype: torch.dtype) -> None:
    for bits in NANS[dtype]:
        case = testing.make_case("near", 1, 2, 65, 64, dtype)
        dout = testing.make_case("normal", 1, 2, 65, 64, dtype, seed=1)
        if place == "dout":
            dout = with_nan(dout, "v", bits)
        else:
            case = with_nan(case, place, bits)
        for got, expected in zip(gradients(case, dout.v), testing.oracle_gradients(case, dout.v), strict=True):
            assert torch.equal(got.isnan(), expected.isnan())


def with_low_key(dtype: torch.dtype, tokens: int, low: float) -> testing.Case:
    """A key that no query attends to: the product of its number `low` with theirs, and its square, are beyond all scores."""
    normal = testing.make_case("normal", 1, 2, tokens, 64, dtype)
    k = normal.k.clone()
    k[0, 0, 3, 5] = low
    return replace(normal, q=1.5 * normal.q.abs(), k=k, v=normal.v.abs().clamp(max=1))


LOW = [(torch.float32, -1e19), (torch.float32, -1e20), *((dtype, -math.inf) for dtype in DTYPES)]


@pytest.mark.parametrize(("dtype", "low"), LOW, ids=str)
def test_a_score_of_minus_infinity_has_no_weight(isa: str, dtype: torch.dtype, low: float) -> None:
    for tokens in (40, 60, 65):  # the bound of a row has the number as a factor
        check_low_key(with_low_key(dtype, tokens, low))


def check_low_key(case: testing.Case) -> None:
    exact = case.q.dtype == torch.float32
    out, scores, lse, _ = run(case, 3, 1)
    expected, expected_lse = testing.oracle(case)
    assert (out - expected).abs().max() < (1e-5 if exact else 0.02)
    assert (lse - expected_lse).abs().max() < (1e-4 if exact else 2e-3)
    assert (scores - testing.oracle_scores(case, 3, 1)).abs().max() < 2e-6


@pytest.mark.parametrize("tokens", [40, 48, 65])
@pytest.mark.parametrize(("dtype", "low"), LOW, ids=str)
def test_a_score_of_minus_infinity_has_no_gradient(isa: str, dtype: torch.dtype, low: float, tokens: int) -> None:
    """What is 0 times infinity in the formula is no number, at any number of tokens: the key's and the queries' infinite component."""
    case = with_low_key(dtype, tokens, low)
    dout = testing.make_case("normal", 1, 2, tokens, 64, dtype, seed=1).v
    for got, exact in zip(gradients(case, dout), testing.oracle_gradients(case, dout), strict=True):
        assert torch.equal(got.isfinite(), exact.isfinite())
        error = (got - exact).nan_to_num(posinf=0, neginf=0).abs().max()
        assert error < (1e-4 if dtype == torch.float32 else 0.03) * exact.nan_to_num().abs().max()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scores_of_minus_infinity_alone_are_not_a_number(isa: str, dtype: torch.dtype) -> None:
    case = testing.make_case("normal", 1, 2, 40, 64, dtype)
    case = replace(case, q=torch.ones_like(case.q), k=torch.full_like(case.k, -math.inf))
    out, scores, _, _ = run(case, 3, 1)
    assert out.isnan().all()
    assert scores.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("length", [1.0, 1000.0])
def test_scores_of_millions(isa: str, length: float, dtype: torch.dtype) -> None:
    """Scores that lie far below 0, and as far above it where the queries are long: the first key has all of the weight."""
    case = testing.make_case("normal", 1, 1, 16, 64, dtype)
    steps = torch.arange(16.0).view(1, 1, 16, 1) * (10 if dtype == torch.float32 else 32)
    k = (max(3000.0, 6 * length) + steps).expand_as(case.k).to(dtype)
    case = replace(case, q=torch.full_like(case.q, length), k=k, v=torch.eye(16, 64, dtype=dtype)[None, None])
    for out in (testing.oracle(case)[0], run(case)[0]):
        assert (out - case.v[:, :, :1]).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("long", ["q", "k"])
def test_plain_attention_takes_vectors_whose_squares_overflow(isa: str, long: str, dtype: torch.dtype) -> None:
    case = testing.make_case("plain", 1, 2, 40, 64, dtype)
    lengths = {"q": 1e-20, "k": 1e-20} | {long: 3e20}
    case = replace(case, q=case.q * lengths["q"], k=case.k * lengths["k"])
    out, scores, lse, _ = run(case, 3, 1)
    expected, expected_lse = testing.oracle(case)
    assert (out - expected).abs().max() < (1e-5 if dtype == torch.float32 else 0.02)
    assert (lse - expected_lse).abs().max() < (1e-5 if dtype == torch.float32 else 2e-3)
    assert (scores - testing.oracle_scores(case, 3, 1)).abs().max() < 2e-6
    dout = testing.make_case("normal", 1, 2, 40, 64, dtype, seed=1).v
    for got, exact in zip(gradients(case, dout), testing.oracle_gradients(case, dout), strict=True):
        assert (got - exact).abs().max() < (1e-4 if dtype == torch.float32 else 0.03) * exact.abs().max()
