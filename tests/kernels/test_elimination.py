"""Selection, gather and scatter of tokens: the C++ kernels against plain Python and the PyTorch reference."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import esat_kernels
from esat_kernels import _native
from esat_kernels.elimination import native, reference
from tests.kernels.defaults import DEFAULTS, set_default
from tests.require import require


@pytest.fixture(autouse=True)
def _library(request: pytest.FixtureRequest) -> None:
    require("cpu", _native.unavailable())


def expected_positions(row: list[float], keep: int) -> list[int]:
    """By the definition: NaN first, then larger scores, then lower positions."""
    order = sorted(range(len(row)), key=lambda i: (not math.isnan(row[i]), 0.0 if math.isnan(row[i]) else -row[i], i))
    return sorted(order[:keep])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(("n", "keep"), [(576, 404), (404, 283), (283, 199), (256, 180), (1, 1), (2, 1), (7, 7), (33, 1), (1000, 999)])
@pytest.mark.parametrize("levels", [2, 5, 0])
def test_selection(n: int, keep: int, levels: int, backend: str) -> None:
    generator = torch.Generator().manual_seed(n)
    scores = torch.randn(3, n, generator=generator)
    if levels:  # many equal scores
        scores = (scores * levels).round() / levels
    got = esat_kernels.select_tokens(scores, keep, backend=backend)
    assert got.dtype == torch.int64
    assert got.tolist() == [expected_positions(row, keep) for row in scores.tolist()]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_selection_of_special_values(backend: str) -> None:
    row = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, -1e-45, -0.0, 0.0, math.nan, 3.4e38]
    for keep in range(1, len(row) + 1):
        got = esat_kernels.select_tokens(torch.tensor([row]), keep, backend=backend)
        assert got.tolist() == [expected_positions(row, keep)]


def test_selection_reads_strided_scores_and_writes_all_of_its_output() -> None:
    whole = torch.randn(4, 50)
    for scores in (whole[:, 10:40], whole[::2], whole.T, whole[:1].expand(3, 50), whole.flip(1)):
        keep = scores.shape[1] // 2 + 1
        assert torch.equal(native.select_tokens(scores, keep), reference.select_tokens(scores, keep))


@pytest.mark.parametrize("default", DEFAULTS, ids=str)
def test_defaults_of_pytorch_do_not_change_a_selection(default: torch.dtype | torch.device) -> None:
    scores = torch.rand(2, 30)
    with set_default(default):
        kept = esat_kernels.select_tokens(scores, 11, backend="cpu")
    assert torch.equal(kept, reference.select_tokens(scores, 11))


def case(dtype: torch.dtype, channels: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(channels)
    tokens = (torch.rand(batch, 9 + 30, channels, generator=generator) * 100).to(dtype)
    kept = torch.stack([torch.randperm(30, generator=generator)[:11].sort().values for _ in range(batch)])
    return tokens, kept


DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.uint8, torch.int32]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3, 96, 768])
def test_gather_and_scatter_any_row(dtype: torch.dtype, channels: int) -> None:
    tokens, kept = case(dtype, channels)
    for num_template in (0, 9):
        got = esat_kernels.gather_tokens(tokens, kept, num_template, backend="cpu")
        assert torch.equal(got, reference.gather_tokens(tokens, kept, num_template))
        assert got.is_contiguous()
        for backend in ("cpu", "reference"):
            memory = torch.full((64, *got.shape[2:]), 7).to(dtype)
            out = memory[: 2 * got.shape[1]].view(got.shape)
            assert esat_kernels.gather_tokens(tokens, kept, num_template, backend, out) is out
            assert torch.equal(out, got)
            assert (memory[2 * got.shape[1] :] == 7).all()
    rows = tokens[:, :11]
    got = esat_kernels.scatter_tokens(rows, kept, 30, backend="cpu")
    assert torch.equal(got, reference.scatter_tokens(rows, kept, 30))
    assert got.is_contiguous()


def test_rows_come_back_where_they_were() -> None:
    tokens, kept = case(torch.float32, 64)
    gathered = esat_kernels.gather_tokens(tokens, kept, 9)
    back = esat_kernels.scatter_tokens(gathered[:, 9:], kept, 30)
    mask = torch.zeros(2, 30, dtype=torch.bool).scatter(1, kept, True)
    assert torch.equal(back[mask], tokens[:, 9:][mask])
    assert (back[~mask] == 0).all()


def test_strided_tokens_and_positions_in_any_order() -> None:
    tokens, kept = case(torch.float32, 64)
    views = {
        "heads outside": tokens.view(2, 39, 4, 16)[:, :, 1],
        "transposed": tokens.transpose(1, 2).contiguous().transpose(1, 2),
        "one batch for two": tokens[:1].expand(2, 39, 64),
        "every second channel": tokens[:, :, ::2],
        "flipped": tokens.flip(1),
    }
    for view in views.values():
        for positions in (kept, kept.flip(1), kept.T.contiguous().T):
            assert torch.equal(native.gather_tokens(view, positions, 9), reference.gather_tokens(view, positions, 9))
            rows = view[:, :11]
            assert torch.equal(native.scatter_tokens(rows, positions, 30), reference.scatter_tokens(rows, positions, 30))


def test_many_rows_on_several_threads() -> None:
    tokens = torch.randn(3, 720, 768)
    kept = native.select_tokens(torch.randn(3, 576), 404)
    gathered = native.gather_tokens(tokens, kept, 144)
    assert torch.equal(gathered, reference.gather_tokens(tokens, kept, 144))
    assert torch.equal(native.scatter_tokens(gathered[:, 144:], kept, 576), reference.scatter_tokens(gathered[:, 144:], kept, 576))


def test_no_rows_at_all() -> None:
    none = torch.empty(2, 0, dtype=torch.int64)
    assert native.gather_tokens(torch.randn(2, 5, 8), none, 2).shape == (2, 2, 8)
    assert torch.equal(native.scatter_tokens(torch.empty(2, 0, 8), none, 4), torch.zeros(2, 4, 8))


def test_gradients_go_through_the_reference() -> None:
    tokens, kept = case(torch.float64, 5)
    tokens.requires_grad_()
    assert torch.autograd.gradcheck(lambda t: esat_kernels.gather_tokens(t, kept, 9), tokens)
    assert torch.autograd.gradcheck(lambda t: esat_kernels.scatter_tokens(t[:, :11], kept, 30), tokens)
    with pytest.raises(NotImplementedError, match="gather_tokens: backend 'cpu' cannot run: this kernel has no gradient"):
        esat_kernels.gather_tokens(tokens, kept, 9, backend="cpu")
    with torch.no_grad():
        assert esat_kernels.gather_tokens(tokens, kept, 9, backend="cpu").shape == (2, 20, 5)


CALLS = {
    "gather_tokens": lambda tokens, kept, backend: esat_kernels.gather_tokens(tokens, kept, 9, backend),
    "scatter_tokens": lambda tokens, kept, backend: esat_kernels.scatter_tokens(tokens[:, :11], kept, 30, backend),
}


@pytest.mark.parametrize("name", CALLS)
def test_forward_mode_derivatives_go_through_the_reference(name: str) -> None:
    tokens, kept = case(torch.float32, 5)
    tangent = torch.rand_like(tokens)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(tokens, tangent)
        got = forward_ad.unpack_dual(CALLS[name](dual, kept, "auto")).tangent
        with pytest.raises(NotImplementedError, match=f"{name}: backend 'cpu' cannot run: this kernel has no forward-mode derivative"):
            CALLS[name](dual, kept, "cpu")
    assert torch.equal(got, CALLS[name](tangent, kept, "reference"))


def test_lazily_negated_views_keep_their_sign() -> None:
    tokens, kept = torch.randn(1, 4, 1, dtype=torch.complex64).conj().imag, torch.tensor([[0, 2]])
    expected = tokens.resolve_neg()[:, [0, 2]]
    assert tokens.is_neg()
    assert torch.equal(esat_kernels.gather_tokens(tokens, kept, 0), expected)
    out = torch._neg_view(torch.empty(1, 2, 1))
    assert torch.equal(esat_kernels.gather_tokens(tokens.resolve_neg(), kept, 0, out=out), expected)
    with pytest.raises(NotImplementedError, match="backend 'cpu' cannot run: tensors must not be lazily negated views"):
        esat_kernels.gather_tokens(tokens, kept, 0, backend="cpu")
    with pytest.raises(NotImplementedError, match="tensors must not be lazily negated views"):
        _plan(tokens=torch._neg_view(torch.zeros(1, 39, 8)))


def test_export_uses_the_reference() -> None:
    tokens, _ = case(torch.float32, 8)

    class Model(torch.nn.Module):
        def forward(self, tokens: Tensor, scores: Tensor) -> Tensor:
            kept = esat_kernels.select_tokens(scores, 11)
            return esat_kernels.scatter_tokens(esat_kernels.gather_tokens(tokens, kept, 9)[:, 9:], kept, 30)

    scores = torch.rand(2, 30)
    exported = torch.export.export(Model(), (tokens, scores)).module()
    assert torch.equal(exported(tokens, scores), Model()(tokens, scores))


def test_selection_and_both_gathers_in_one_call() -> None:
    tokens, _ = case(torch.float32, 8)
    attended, scores = tokens.bfloat16(), torch.rand(2, 30)
    kept, gathered, gathered_attended = esat_kernels.eliminate_tokens(scores, 21, tokens, attended, 9)
    assert torch.equal(kept, native.select_tokens(scores, 21))
    assert torch.equal(gathered, native.gather_tokens(tokens, kept, 9))
    assert torch.equal(gathered_attended, native.gather_tokens(attended, kept, 9))
    places = torch.arange(2, 92, 3).repeat(2, 1)  # an earlier elimination kept every third of 90
    stays, again, _ = esat_kernels.eliminate_tokens(scores, 21, tokens, attended, 9, places=places)
    assert torch.equal(stays, 3 * kept + 2)
    assert torch.equal(again, gathered)


TOKENS, KEPT = case(torch.float32, 8)
SCORES, OUT = torch.zeros(2, 30), torch.zeros(2, 20, 8)
BAD_CALLS = [
    (lambda b: esat_kernels.select_tokens(torch.zeros(5), 2, b), ValueError, "scores must be [B, n], got (5,)"),
    (lambda b: esat_kernels.select_tokens(torch.zeros(1, 5), 0, b), ValueError, "keep must lie in [1, 5], got 0"),
    (lambda b: esat_kernels.select_tokens(torch.zeros(1, 5), 6, b), ValueError, "keep must lie in [1, 5], got 6"),
    (lambda b: esat_kernels.gather_tokens(TOKENS[0], KEPT, 9, b), ValueError, "expected tokens [B, N, C] and kept [B, n]"),
    (lambda b: esat_kernels.gather_tokens(TOKENS, KEPT[:1], 9, b), ValueError, "got (2, 39, 8) and (1, 11)"),
    (lambda b: esat_kernels.gather_tokens(TOKENS, KEPT.int(), 9, b), TypeError, "kept must be int64, got torch.int32"),
    (lambda b: esat_kernels.gather_tokens(TOKENS, KEPT, 40, b), ValueError, "num_template must lie in [0, 39], got 40"),
    (lambda b: esat_kernels.gather_tokens(TOKENS, KEPT, -1, b), ValueError, "num_template must lie in [0, 39], got -1"),
    (lambda b: esat_kernels.gather_tokens(TOKENS, KEPT, 9, b, TOKENS), ValueError, "out must be (2, 20, 8), got (2, 39, 8)"),
    (lambda b: esat_kernels.gather_tokens(TOKENS, KEPT, 9, b, OUT.int()), TypeError, "out must be torch.float32 like the input"),
    (lambda b: esat_kernels.gather_tokens(TOKENS, KEPT, 9, b, OUT.to("meta")), ValueError, "out must be on cpu like the input, got meta"),
    (lambda b: esat_kernels.gather_tokens(TOKENS, KEPT, 9, b, torch.zeros(2, 8, 20).mT), ValueError, "out must be contiguous, got strides"),
    (lambda b: esat_kernels.gather_tokens(TOKENS, KEPT, 9, b, OUT.clone().requires_grad_()), ValueError, "into out has no gradient"),
    (lambda b: esat_kernels.scatter_tokens(TOKENS, KEPT, 30, b), ValueError, "kept must be (2, 39), got (2, 11)"),
    (lambda b: esat_kernels.scatter_tokens(TOKENS[:, :11], KEPT, 10, b), ValueError, "length must be at least the number of tokens, 11"),
    (lambda b: esat_kernels.gather_tokens(TOKENS, KEPT, 9, "cuda"), NotImplementedError, "has no kernel for this operation"),
    (
        lambda b: esat_kernels.eliminate_tokens(SCORES, 31, TOKENS, TOKENS, 9),
        ValueError,
        "eliminate_tokens: keep must lie in [1, 30], got 31",
    ),
    (lambda b: esat_kernels.eliminate_tokens(SCORES, 3, TOKENS, TOKENS, 8), ValueError, "tokens must be (2, 38, C), got (2, 39, 8)"),
    (lambda b: esat_kernels.eliminate_tokens(SCORES, 3, TOKENS, TOKENS[:1], 9), ValueError, "attended must be (2, 39, C), got (1, 39, 8)"),
    (lambda b: esat_kernels.eliminate_tokens(torch.zeros(2, 40), 3, TOKENS, TOKENS, -1), ValueError, "must not be negative, got -1"),
    (
        lambda b: esat_kernels.eliminate_tokens(SCORES, 3, TOKENS, TOKENS, 9, places=torch.zeros(2, 30)),
        TypeError,
        "places must be int64, got torch.float32",
    ),
    (
        lambda b: esat_kernels.eliminate_tokens(SCORES, 3, TOKENS, TOKENS, 9, places=torch.zeros(2, 3, dtype=torch.int64)),
        ValueError,
        "places must be (2, 30), got (2, 3)",
    ),
    (lambda b: esat_kernels.eliminate_tokens(SCORES, 3, TOKENS, TOKENS, 9, "cpu"), NotImplementedError, "has no kernel for this operation"),
    (lambda b: esat_kernels.gather_tokens(TOKENS, KEPT, 9, "gpu"), ValueError, "backend must be auto, cpu"),
]


@pytest.mark.parametrize("backend", ["auto", "cpu", "reference"])
@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS)
def test_bad_calls(call, error, message, backend) -> None:
    with pytest.raises(error) as caught:
        call(backend)
    assert message in str(caught.value)


@pytest.mark.parametrize("position", [-1, 30, 2**62])
def test_positions_outside_are_refused_before_anything_is_read(position: int) -> None:
    bad = KEPT.clone()
    bad[1, 3] = position
    with pytest.raises(IndexError, match=rf"gather_tokens: kept must lie in \[0, 30\), got {position}"):
        esat_kernels.gather_tokens(TOKENS, bad, 9, backend="cpu")
    with pytest.raises(IndexError, match=rf"scatter_tokens: kept must lie in \[0, 30\), got {position}"):
        esat_kernels.scatter_tokens(TOKENS[:, :11], bad, 30, backend="cpu")
    with pytest.raises(RuntimeError):
        esat_kernels.gather_tokens(TOKENS, bad, 9, backend="reference")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_scores_of_another_dtype_use_the_reference(dtype: torch.dtype) -> None:
    scores = torch.rand(1, 20).to(dtype)
    assert torch.equal(esat_kernels.select_tokens(scores, 7), reference.select_tokens(scores, 7))
    with pytest.raises(NotImplementedError, match="scores must be float32, got torch"):
        esat_kernels.select_tokens(scores, 7, backend="cpu")


def test_a_planned_elimination_reads_its_memory_anew() -> None:
    scores, kept = torch.zeros(2, 30), torch.zeros(2, 11, dtype=torch.int64)
    whole = torch.zeros(2, 39, 24)
    tokens, attended = whole[:, :, :8], torch.zeros(2, 39, 5, dtype=torch.bfloat16)
    outs = torch.zeros(2, 20, 8), torch.zeros(2, 20, 5, dtype=torch.bfloat16)
    call = esat_kernels.plan_elimination(scores, kept, [(tokens, outs[0]), (attended, outs[1])], 9)
    for _ in range(2):
        for tensor in (scores, whole, attended):
            tensor.normal_()
        call()
        assert torch.equal(kept, reference.select_tokens(scores, 11))
        for tensor, out in zip((tokens, attended), outs, strict=True):
            assert torch.equal(out, reference.gather_tokens(tensor, kept, 9))


def _plan(**changes: object) -> object:
    arguments = {"scores": torch.zeros(1, 30), "kept": torch.zeros(1, 11, dtype=torch.int64), "num_template": 9}
    pair = (changes.pop("tokens", torch.zeros(1, 39, 8)), changes.pop("out", torch.zeros(1, 20, 8)))
    return esat_kernels.plan_elimination(**(arguments | {"pairs": [pair]} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"kept": torch.zeros(1, 31, dtype=torch.int64)}, ValueError, r"keep must lie in \[1, 30\], got 31"),
        ({"kept": torch.zeros(1, 11)}, ValueError, r"contiguous int64 \[1, keep\], got torch.float32"),
        ({"kept": torch.zeros(2, 11, dtype=torch.int64)}, ValueError, r"contiguous int64 \[1, keep\], got torch.int64 \(2, 11\)"),
        ({"num_template": -9, "tokens": torch.zeros(1, 21, 8), "out": torch.zeros(1, 2, 8)}, ValueError, "must not be negative, got -9"),
        ({"tokens": torch.zeros(1, 38, 8)}, ValueError, "expected 39 tokens, got 38"),
        ({"out": torch.zeros(1, 21, 8)}, ValueError, "out must be"),
        ({"out": torch.zeros(1, 20, 16)[:, :, ::2]}, ValueError, "outputs must be contiguous"),
        ({"tokens": torch.zeros(1, 39, 16)[:, :, ::2]}, ValueError, "adjacent in memory"),
        ({"scores": torch.zeros(1, 30, dtype=torch.float64)}, NotImplementedError, "float32"),
    ],
)
def test_plans_that_cannot_be(changes: dict[str, object], error: type[Exception], message: str) -> None:
    _plan()
    with pytest.raises(error, match=message):
        _plan(**changes)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"scores": torch.zeros(30, 1).t()[:, ::2]}, ValueError, r"scores of a row must be adjacent in memory, got strides \(1, 2\)"),
        ({"kept": torch.zeros(1, 11, dtype=torch.int64, device="meta")}, NotImplementedError, "tensors must be on the CPU, got meta"),
        ({"num_template": -1}, ValueError, "num_template must not be negative, got -1"),
    ],
)
def test_a_plan_without_pairs_is_checked_too(changes: dict[str, object], error: type[Exception], message: str) -> None:
    arguments = {"scores": torch.zeros(1, 30), "kept": torch.zeros(1, 11, dtype=torch.int64), "num_template": 9, "pairs": []}
    with pytest.raises(error, match=message):
        esat_kernels.plan_elimination(**(arguments | changes))  # type: ignore[arg-type]
