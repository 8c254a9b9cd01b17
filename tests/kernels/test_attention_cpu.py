"""The CPU kernels of force-directed attention, on every instruction set of the machine, against the float64 oracle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import esat_kernels
from esat_kernels import _native, fda_attention, fda_attention_with_scores, testing
from esat_kernels.attention import native
from esat_kernels.attention.common import Scores
from esat_kernels.attention.library import fda_forward
from tests.kernels.attention_cases import DTYPES, SMALL_MODEL_TOKENS, VIT_B_TOKENS, force_isa, gradients, isas, run
from tests.kernels.test_attention import golden
from tests.require import require

KINDS = ("normal", "near", "large", "plain")


@pytest.fixture(autouse=True)
def _native_library() -> None:
    require("cpu", _native.unavailable())


isa = isas()


def check(case: testing.Case) -> None:
    """Output, elimination scores and log-sum-exp of one call."""
    tokens = case.q.shape[2]
    num_template = max(1, tokens // 5)
    out, scores, lse, _ = run(case, num_template, num_template // 2)
    budget = testing.check(case, out)
    assert budget.ok, (tuple(case.q.shape), budget)
    assert scores.shape == (case.q.shape[0], tokens - num_template)
    if scores.numel():
        assert (scores - testing.oracle_scores(case, num_template, num_template // 2)).abs().max() < 2e-6
    exact = testing.oracle(case)[1]
    tolerance = (1e-6 if case.q.dtype != torch.bfloat16 else 2e-4) * float(exact.abs().max() + 8)
    assert (lse - exact).abs().max() < tolerance


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_budget(isa: str, kind: str, dtype: torch.dtype) -> None:
    check(testing.make_case(kind, 3, 2, 153, 64, dtype, strided=True))


@pytest.mark.parametrize("tokens", sorted({n + d for n in (*VIT_B_TOKENS, *SMALL_MODEL_TOKENS) for d in (-1, 0, 1)}))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sizes_of_the_models(isa: str, tokens: int, dtype: torch.dtype) -> None:
    check(testing.make_case("near", 1, 1, tokens, 64, dtype, seed=tokens, strided=True))


@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 31, 33, 47, 49, 63, 64, 65, 79, 80, 81])
def test_small_sizes(isa: str, tokens: int) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        check(testing.make_case("near", 3, 4, tokens, 64, dtype, seed=tokens))


@pytest.mark.parametrize("head_dim", [1, 8, 24, 32, 40, 96, 100, 128])
def test_head_dimensions(isa: str, head_dim: int) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        check(testing.make_case("near", 1, 4, 81, head_dim, dtype, seed=head_dim, strided=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_far_apart_norms_are_done_again_with_their_maximum(isa: str, dtype: torch.dtype) -> None:
    case = testing.make_case("large", 1, 2, 81, 64, dtype)
    case = testing.Case(2 * case.q, 2 * case.k, case.v, 1.0, 0.1, 0.02, 0.125)
    out, _, _, (_, _, redone) = run(case)
    assert redone > 0
    budget = testing.check(case, out)
    assert budget.ok, budget


def test_keys_around_a_distant_mean_are_done_once(isa: str) -> None:
    case = testing.make_case("normal", 1, 2, 81, 64, torch.float32)
    far = 18 * torch.nn.functional.normalize(torch.randn(1, 2, 1, 64, generator=torch.Generator().manual_seed(3)), dim=-1)
    case = testing.Case(2 * case.q - far, case.k + 8 * far, case.v, 0.1, 0.1, 0.125, 0.125)
    out, _, _, (_, _, redone) = run(case)
    assert redone == 0  # a bound by the longest key alone is far too high
    budget = testing.check(case, out)
    assert budget.ok, budget


def test_keys_closer_together_than_their_squares_are_rounded(isa: str) -> None:
    """Their distance from the mean, which a row's bound is made of, is what rounding leaves of it."""
    for seed in range(60):
        case = testing.make_case("normal", 1, 8, 2, 64, seed=seed)
        far = 8000 * torch.nn.functional.normalize(case.k[:, :, :1], dim=-1)
        case = replace(case, k=far + 0.05 * case.k)
        error = (run(case)[0] - testing.oracle(case)[0]).abs().max()
        assert error < 10 * (testing.yardstick(case) - testing.oracle(case)[0]).abs().max() + 0.1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_meet_the_budget(isa: str, kind: str, dtype: torch.dtype) -> None:
    case = testing.make_case(kind, 3, 2, 153, 64, dtype, strided=True)
    dout = testing.make_case("normal", 3, 2, 153, 64, dtype, seed=1).v
    for name, budget in testing.check_gradients(case, dout, gradients(case, dout)).items():
        assert budget.ok, (name, budget)


@pytest.mark.parametrize(
    ("tokens", "head_dim"), [(1, 64), (16, 64), (31, 64), (33, 32), (65, 96), (81, 128), (79, 40), (20, 128), (49, 24)]
)
def test_gradients_at_awkward_sizes(isa: str, tokens: int, head_dim: int) -> None:
    case = testing.make_case("near", 2, 8, tokens, head_dim, torch.bfloat16, strided=True)
    dout = testing.make_case("normal", 2, 8, tokens, head_dim, torch.bfloat16, seed=1).v.mT.contiguous().mT
    for name, budget in testing.check_gradients(case, dout, gradients(case, dout)).items():
        if tokens > 1 or name == "dv":  # one token: dq and dk are the rounding of dout . (v - out), which is 0
            assert budget.ok, (name, budget)


def test_gradients_through_the_public_call(isa: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        case = testing.make_case("near", 1, 2, 65, 64, dtype)
        dout = testing.make_case("normal", 1, 2, 65, 64, dtype, seed=1).v
        q, k, v = (t.clone().requires_grad_() for t in (case.q, case.k, case.v))
        out = fda_attention(q, k, v, **case.constants, backend="cpu")
        for got, expected in zip(torch.autograd.grad(out, (q, k, v), dout), gradients(case, dout), strict=True):
            assert torch.equal(got, expected)


@pytest.mark.parametrize("alpha", [5.0, 40.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_strong_attraction(isa: str, alpha: float, dtype: torch.dtype) -> None:
    case = testing.make_case("near", 1, 2, 81, 64, dtype)
    case = testing.Case(case.q, case.k, case.v, alpha, case.beta, case.delta, case.scale)
    out = run(case)[0]
    error = (out.double() - testing.oracle(case)[0]).abs().max()
    # the sum in the exponent is of the size of alpha, so float32 itself errs by alpha 2^-24, and a degree-2 exponential by alpha / 600
    assert error < (1e-5 * alpha if dtype == torch.float32 else 0.05)


@pytest.mark.parametrize(("isa", "blocks"), [("amx", 2 * 11 * 11 * 4), ("avx512bf16", 2 * 22 * 43)])
def test_skipped_tiles_are_counted(monkeypatch: pytest.MonkeyPatch, isa: str, blocks: int) -> None:
    force_isa(monkeypatch, isa)
    far = testing.make_case("normal", 1, 2, 343, 64, torch.bfloat16)
    near = testing.make_case("near", 1, 2, 343, 64, torch.bfloat16)
    skipped, counted, _ = run(far)[3]
    assert 0 < skipped <= counted == blocks
    assert run(near)[3][0] < blocks // 10


@pytest.mark.parametrize("gap", [0.5, 2.0, 3.0, 4.0, 8.0])
def test_what_is_skipped_does_not_show(isa: str, gap: float) -> None:
    """Distances around the one from which on a tile's attraction is left out, with an attraction that would show."""
    case = testing.make_case("normal", 1, 2, 96, 64, torch.bfloat16, seed=3)
    direction = torch.zeros(64, dtype=torch.float64)
    direction[0] = gap
    k = (case.q.double() + direction + 0.05 * case.k.double()).to(torch.bfloat16)
    case = testing.Case(case.q, k, case.v, 8.0, 0.1, 1.0, case.scale)
    out = run(case)[0]
    error = (out.double() - testing.oracle(case)[0]).abs().max()
    assert error < 0.03


def test_same_bits_on_every_repetition_and_number_of_threads(isa: str) -> None:
    threads = torch.get_num_threads()
    try:
        for dtype in DTYPES:
            case = testing.make_case("near", 2, 3, 153, 64, dtype)
            dout = testing.make_case("normal", 2, 3, 153, 64, dtype, seed=1).v
            torch.set_num_threads(1)
            first = (*run(case, 40, 3)[:3], *gradients(case, dout))
            for count in (1, 2, 3, 5):
                torch.set_num_threads(count)
                for got, expected in zip((*run(case, 40, 3)[:3], *gradients(case, dout)), first, strict=True):
                    assert torch.equal(got, expected)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_layouts(isa: str, dtype: torch.dtype) -> None:
    case = testing.make_case("near", 2, 3, 65, 64, dtype)
    expected = run(case)[0]
    assert expected.stride() == (65 * 3 * 64, 64, 3 * 64, 1)  # stored [B, N, H, D]
    transposed = [t.mT.contiguous().mT for t in (case.q, case.k, case.v)]  # head dimension not contiguous: copied
    expanded = [t[:1].expand(2, -1, -1, -1) for t in (case.q, case.k, case.v)]
    assert torch.equal(run(testing.Case(*transposed, *case.constants.values()))[0], expected)
    assert torch.equal(run(testing.Case(*expanded, *case.constants.values()))[0], expected[:1].expand(2, -1, -1, -1))


def test_nothing_outside_the_output_is_written(isa: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        case = testing.make_case("near", 1, 2, 33, 40, dtype)
        guarded = torch.full((3, 33, 2, 40), float("nan"), dtype=dtype)
        for target, source in zip(guarded, (case.q, case.k, case.v), strict=True):
            target.copy_(source[0].transpose(0, 1))
        q, k, v = (t.transpose(0, 1).unsqueeze(0) for t in guarded)
        assert torch.equal(run(testing.Case(q, k, v, *case.constants.values()))[0], run(case)[0])


class Attention(torch.nn.Module):
    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return fda_attention(q, k, v, backend="cpu")


CAPTURES = {
    "export": lambda *inputs: torch.export.export(Attention(), inputs).module(),
    "trace": lambda *inputs: torch.jit.trace(Attention(), inputs),
    "operator": lambda *_: lambda q, k, v: fda_forward(q, k, v, 0.1, 0.1, 8**-0.5, 8**-0.5, 0, -1, "cpu", False)[0],
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("capture", CAPTURES)
def test_a_call_that_was_captured_without_gradients_has_them(capture: str) -> None:
    """Its forward keeps no log-sum-exp."""
    case = testing.make_case("near", 1, 2, 17, 8)
    captured = CAPTURES[capture](case.q, case.k, case.v)
    q, k, v = (t.clone().requires_grad_() for t in (case.q, case.k, case.v))
    dout = testing.make_case("normal", 1, 2, 17, 8, seed=1).v
    expected = torch.autograd.grad(fda_attention(q, k, v, backend="cpu"), (q, k, v), dout)
    for got, gradient in zip(torch.autograd.grad(captured(q, k, v), (q, k, v), dout), expected, strict=True):
        assert torch.equal(got, gradient)


@pytest.mark.parametrize("place", ["q", "k", "v"])
def test_forward_mode_derivatives_are_the_reference_s(place: str) -> None:
    case = testing.make_case("near", 1, 2, 17, 8)
    tangent = torch.randn(case.q.shape, generator=torch.Generator().manual_seed(1))

    def derivative(backend: str) -> torch.Tensor:
        inputs = {"q": case.q, "k": case.k, "v": case.v}
        call = lambda tensor: fda_attention(**(inputs | {place: tensor}), **case.constants, backend=backend)  # noqa: E731
        return torch.func.jvp(call, (inputs[place],), (tangent,))[1]

    assert derivative("auto").abs().max() > 0
    assert torch.equal(derivative("auto"), derivative("reference"))
    with pytest.raises(NotImplementedError, match="backend 'cpu' cannot run: this kernel has no forward-mode derivative"):
        derivative("cpu")


@pytest.mark.parametrize("lse", [torch.zeros(1, 2, 0), torch.zeros(1, 2, 17, dtype=torch.float64), torch.zeros(1, 2, 17, device="meta")])
def test_a_backward_refuses_another_log_sum_exp(lse: torch.Tensor) -> None:
    case = testing.make_case("near", 1, 2, 17, 8)
    with pytest.raises(ValueError, match=r"lse must be \(1, 2, 17\) torch.float32 on cpu, got \(1, 2, "):
        native.backward(case.v, case.q, case.k, case.v, case.v, lse, case.forces)


@pytest.mark.parametrize(("token", "with_lse", "gradients"), [(-1, True, True), (5, True, True), (5, False, False), (5, False, True)])
def test_operators_pass_opcheck(token: int, with_lse: bool, gradients: bool) -> None:
    case = testing.make_case("near", 1, 2, 17, 8, torch.bfloat16, strided=True)
    q, k, v = (t.detach().requires_grad_(gradients) for t in (case.q, case.k, case.v))
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(fda_forward, (q, k, v, 0.5, 0.5, 0.1, 0.3, 8, token, "cpu", with_lse), test_utils=tests)


def test_without_log_sum_exp(isa: str) -> None:
    """The quicker kernel of inference: within the budget as well."""
    for kind in KINDS:
        for dtype in (torch.float32, torch.bfloat16):
            case = testing.make_case(kind, 2, 2, 153, 64, dtype)
            out, _, lse = native.forward(case.q, case.k, case.v, case.forces, Scores(), with_lse=False)
            assert lse.shape == (2, 2, 0)
            budget = testing.check(case, out)
            assert budget.ok, (kind, budget)


def test_public_calls_choose_the_kernel(isa: str) -> None:
    case = testing.make_case("near", 1, 2, 65, 64)
    expected, expected_scores, _, _ = run(case, 20, 7)  # float32: the same bits with and without the log-sum-exp
    assert torch.equal(fda_attention(case.q, case.k, case.v, **case.constants), expected)
    assert torch.equal(fda_attention(case.q, case.k, case.v, **case.constants, backend="cpu"), expected)
    out, scores = fda_attention_with_scores(case.q, case.k, case.v, 20, 7, **case.constants, backend="cpu")
    assert torch.equal(out, expected)
    assert torch.equal(scores, expected_scores)


def test_golden_files_of_the_public_code(isa: str, shared: Path) -> None:
    for file in golden(shared):
        data = np.load(file)
        spec = json.loads(str(data["spec"]))
        q, k, v = (torch.from_numpy(data[name]).float() for name in "qkv")
        case = testing.Case(q, k, v, *(spec[name] for name in ("alpha", "beta", "delta", "scale")))
        out, scores, _, _ = run(case, spec["num_template"], spec["template_token"])
        assert np.abs(out.double().numpy() - data["out"]).max() < 1e-5, file.name
        assert np.abs(scores.double().numpy() - data["scores"]).max() < 1e-6, file.name
        rounded = testing.Case(q.bfloat16(), k.bfloat16(), v.bfloat16(), *case.constants.values())
        budget = testing.compare(run(rounded)[0], testing.yardstick(rounded), torch.from_numpy(data["out"]))
        assert budget.ok, (file.name, budget)


@pytest.mark.parametrize(("change", "message"), [
    (lambda t: t.double(), "needs float32, bfloat16 or float16, got torch.float64"),
    (lambda t: t.repeat(1, 1, 1, 40), "needs a head dimension of at most 128, got 160"),
    (lambda t: t.to("meta"), "needs tensors on the cpu, got meta"),
])  # fmt: skip
def test_refusals_give_the_reason(change: object, message: str) -> None:
    tensor = change(torch.zeros(1, 1, 4, 4))  # type: ignore[operator]
    assert native.unsupported(tensor) == message
    with pytest.raises(NotImplementedError, match=message):
        fda_attention(tensor, tensor, tensor, backend="cpu")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_planned_call_reads_and_writes_its_memory_every_time(isa: str, dtype: torch.dtype) -> None:
    """q, k, v lie beside each other in a row, and the memory behind the tokens stays as it was."""
    rows, memory = torch.empty(60, 3, 2, 32, dtype=dtype), torch.full((60, 2, 32), 7.0, dtype=dtype)
    q, k, v = rows[:53].permute(1, 2, 0, 3).unsqueeze(1)
    out, scores = memory[:53].permute(1, 0, 2)[None], torch.zeros(1, 44)
    forces = {"alpha": 0.3, "beta": 0.2, "delta": 0.1, "scale": 0.15}
    plain = esat_kernels.plan_attention(q, k, v, out, **forces)
    scored = esat_kernels.plan_attention(q, k, v, out, scores, 9, 4, **forces)
    for seed in range(2):
        rows.copy_(torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed)))
        for call in (plain, scored):
            out.zero_()
            call()
            expected, expected_scores = fda_attention_with_scores(q, k, v, 9, 4, **forces, backend="cpu")
            assert torch.equal(out, expected)
        assert torch.equal(scores, expected_scores)
    assert (memory[53:] == 7).all()


def test_a_planned_call_keeps_its_memory_alive() -> None:
    q = torch.ones(1, 1, 64, 64)
    call = esat_kernels.plan_attention(q.clone(), q.clone(), q.clone(), out := torch.zeros_like(q))
    torch.full((4, 1, 64, 64), float("nan"))  # would take the memory of what was freed
    call()
    assert torch.equal(out, q)


ONES, SCORES = torch.ones(1, 2, 9, 8), torch.zeros(1, 6)
BAD_PLANS = [
    ({"k": ONES[:, :1]}, ValueError, "key must be (1, 2, 9, 8), got (1, 1, 9, 8)"),
    ({"out": ONES[:, :1]}, ValueError, "out must be (1, 2, 9, 8), got (1, 1, 9, 8)"),
    ({"out": ONES.double()}, TypeError, "out must be torch.float32 like the input, got torch.float64"),
    ({"v": ONES.clone().requires_grad_()}, ValueError, "a result that is written into out has no gradient"),
    ({"out": torch.ones(1, 2, 8, 9).mT}, NotImplementedError, "values of one head must be neighbours"),
    ({"q": torch.ones(1, 2, 8, 9).mT}, NotImplementedError, "values of one head must be neighbours"),
    (dict.fromkeys("qkv", ONES.double()) | {"out": ONES.double()}, NotImplementedError, "needs float32, bfloat16 or float16"),
    ({"scores": SCORES}, ValueError, "num_template must lie in [1, 9], got 0"),
    ({"scores": SCORES, "num_template": 4, "template_token": 0}, ValueError, "scores: out must be (1, 5), got (1, 6)"),
    ({"scores": SCORES.int(), "num_template": 3, "template_token": 0}, TypeError, "scores: out must be torch.float32"),
    ({"scores": SCORES[:, :1].expand(1, 6), "num_template": 3, "template_token": 0}, NotImplementedError, "scores must be contiguous"),
    ({"alpha": -1.0}, ValueError, "alpha must be zero or a positive number, got -1.0"),
]


@pytest.mark.parametrize(("changes", "error", "message"), BAD_PLANS)
def test_bad_plans(changes: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        esat_kernels.plan_attention(**{"q": ONES, "k": ONES, "v": ONES, "out": ONES.clone(), **changes})
    assert message in str(caught.value)
