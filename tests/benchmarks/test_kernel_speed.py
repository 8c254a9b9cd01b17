"""pytest-benchmark of single kernels: `pytest tests/benchmarks/test_kernel_speed.py --benchmark-only`. In an ordinary run each is called once."""

from __future__ import annotations

import pytest
import torch

from esat_kernels import _native, testing
from esat_kernels.attention import native
from tests.require import require


@pytest.fixture
def run_once(request: pytest.FixtureRequest):
    """The benchmark fixture under --benchmark-only, a single call otherwise."""
    require("cpu", _native.unavailable())
    if request.config.getoption("--benchmark-only", default=False):
        return request.getfixturevalue("benchmark")
    return lambda function, *arguments: function(*arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("tokens", [720, 343])
def test_attention_forward(run_once, tokens: int, dtype: torch.dtype) -> None:
    case = testing.make_case("normal", 1, 12, tokens, 64, dtype, strided=True)
    out, _, _ = run_once(native.forward, case.q, case.k, case.v, *case.constants.values(), 144, 65, False)
    assert out.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_attention_backward(run_once, dtype: torch.dtype) -> None:
    case = testing.make_case("normal", 2, 6, 320, 64, dtype, strided=True)
    constants = tuple(case.constants.values())
    out, _, lse = native.forward(case.q, case.k, case.v, *constants, 0, -1)
    grads = run_once(native.backward, out, case.q, case.k, case.v, out, lse, *constants)
    assert all(grad.isfinite().all() for grad in grads)
