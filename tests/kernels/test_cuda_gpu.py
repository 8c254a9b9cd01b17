"""The CUDA attention kernel on a device: the error budget at the sizes of the models, strided views, graph replay, equal bits."""

from __future__ import annotations

import dataclasses

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

import esat_kernels
from esat_kernels import testing
from esat_kernels.attention import cuda
from esat_kernels.attention.common import Scores
from tests.require import require

pytestmark = pytest.mark.gpu
BFLOAT16 = torch.bfloat16
TOKENS = [720, 548, 427, 343, 320, 244, 190, 153, 719, 721, 1, 15, 16, 17, 63, 64, 65, 79, 80, 81]


@pytest.fixture(scope="module", autouse=True)
def _built():
    require("cuda", cuda.unavailable())


@pytest.fixture(autouse=True)
def _nan_in_fresh_memory():
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def on_device(case):
    moved = torch.stack([t.transpose(1, 2) for t in (case.q, case.k, case.v)], 2).cuda()
    return [t.transpose(1, 2) for t in moved.unbind(2)]  # slices of one [B, N, 3, H, D]


def run(case, rows=0, **changes):
    num_template, token = max(1, case.q.shape[2] // 5), max(1, case.q.shape[2] // 5) // 2
    with torch.no_grad():
        results = cuda.forward(*on_device(case), case.forces._replace(**changes), Scores(num_template, token), rows)
    return tuple(t.cpu() for t in results)


def check(case, rows=0):
    out, scores = run(case, rows)
    budget = testing.check(case, out)
    assert budget.ok, budget
    num_template = max(1, case.q.shape[2] // 5)
    exact = testing.oracle_scores(case, num_template, num_template // 2)
    torch.testing.assert_close(scores.double(), exact, rtol=1.2e-3, atol=1e-7)


@pytest.mark.parametrize("tokens", TOKENS)
def test_sizes(tokens):
    check(testing.make_case("near", heads=2, tokens=tokens, dtype=BFLOAT16, seed=tokens))


@pytest.mark.parametrize("rows", [32, 48, 64, 80])
def test_every_tile_height(rows):
    check(testing.make_case("near", heads=2, tokens=153, dtype=BFLOAT16), rows)


@pytest.mark.parametrize("kind", ["normal", "near", "large", "plain"])
@pytest.mark.parametrize("head_dim", cuda.HEAD_DIMS)
def test_kinds_and_head_dimensions(kind, head_dim):
    check(testing.make_case(kind, batch=3, heads=2, tokens=97, head_dim=head_dim, dtype=BFLOAT16))


def test_given_norms_are_used():
    case = testing.make_case("near", batch=2, heads=3, tokens=97, dtype=BFLOAT16)
    q, k, v = on_device(case)
    norms = k.float().square().sum(-1).transpose(1, 2).contiguous().transpose(1, 2)  # stored as [B, N, H]
    out = cuda.forward(q, k, v, case.forces, Scores(), key_norms=norms)[0]
    assert testing.check(case, out.cpu()).ok
    assert testing.check(case, cuda.forward(q, k, v, case.forces, Scores(), key_norms=norms * 0)[0].cpu()).excess > 10


@pytest.mark.parametrize("term", ["alpha", "beta", "delta"])
def test_a_dropped_term_breaks_the_budget_tenfold(term):
    case = testing.make_case("near", heads=2, tokens=153, dtype=BFLOAT16)
    assert testing.check(case, run(case, **{term: 0.0})[0]).excess > 10


def test_same_bits_every_time():
    case = testing.make_case("near", heads=12, tokens=343, dtype=BFLOAT16)
    inputs = on_device(case)
    first = cuda.forward(*inputs, case.forces, Scores(64, 27))
    for _ in range(1000):
        again = cuda.forward(*inputs, case.forces, Scores(64, 27))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_replayed_graph_gives_the_same_bits():
    case = testing.make_case("near", heads=12, tokens=343, dtype=BFLOAT16)
    inputs = on_device(case)
    force = {"num_template": 64, "template_token": 27, **case.constants, "backend": "cuda"}
    with torch.no_grad():
        expected = esat_kernels.fda_attention_with_scores(*inputs, **force)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = esat_kernels.fda_attention_with_scores(*inputs, **force)
        graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(expected, captured, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": torch.float16}, "dtype must be bfloat16 (triton takes others), got torch.float16"),
        ({"head_dim": 128}, "the head dimension must be 32 or 64 (triton takes others), got 128"),
        ({"offset": 4}, "must be multiples of 16 bytes"),
        ({"inner": 2}, "must be contiguous, got stride 2"),
        ({"grad": True}, "it has no backward, use triton"),
    ],
)
def test_refusals(change, message):
    wanted = {"dtype": BFLOAT16, "head_dim": 64, "offset": 0, "inner": 1, "grad": False, **change}
    storage = torch.zeros(65536, dtype=wanted["dtype"], device="cuda")
    d = wanted["head_dim"]
    x = storage.as_strided(
        (1, 1, 8, d), (8 * d * wanted["inner"], 8 * d * wanted["inner"], d * wanted["inner"], wanted["inner"]), wanted["offset"]
    )
    x = x.detach().requires_grad_(wanted["grad"])
    with pytest.raises(NotImplementedError) as caught:
        esat_kernels.fda_attention(x, x, x, backend="cuda")
    assert message in str(caught.value)


def test_strided_inputs_need_no_copy():
    case = testing.make_case("near", batch=2, heads=3, tokens=64, dtype=BFLOAT16)
    q, k, v = on_device(case)
    assert not q.is_contiguous()
    check(dataclasses.replace(case, q=q.cpu(), k=k.cpu(), v=v.cpu()))
