"""The linear layer's reference against float64, its result dtypes and its errors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import esat_kernels
from esat_kernels.linear import reference

BFLOAT16, FLOAT16, FLOAT32 = torch.bfloat16, torch.float16, torch.float32


def operands(rows: int, inner: int, columns: int, dtype: torch.dtype = FLOAT32, stream: torch.dtype = FLOAT32) -> dict[str, Tensor]:
    """x with a mean and large channels, as a residual stream has; weight, bias, residual."""
    generator = torch.Generator().manual_seed(rows + inner + columns)
    x = torch.randn(rows, inner, generator=generator) * 3 + 1
    x[:, :: max(1, inner // 3)] *= 20
    return {
        "x": x.to(stream),
        "weight": (torch.randn(columns, inner, generator=generator) * inner**-0.5).to(dtype),
        "bias": torch.randn(columns, generator=generator),
        "residual": torch.randn(rows, columns, generator=generator).to(stream),
    }


@pytest.mark.parametrize(("rows", "inner", "columns"), [(1, 1, 1), (5, 33, 7), (17, 96, 40)])
@pytest.mark.parametrize("norm_eps", [None, 1e-6])
@pytest.mark.parametrize("activation", [None, "gelu", "relu"])
@pytest.mark.parametrize("extras", [(), ("bias",), ("bias", "residual")])
def test_the_formula(rows: int, inner: int, columns: int, norm_eps: float | None, activation: str | None, extras: tuple[str, ...]) -> None:
    given = operands(rows, inner, columns)
    chosen = {name: given[name] for name in extras}
    out = esat_kernels.linear(given["x"], given["weight"], norm_eps=norm_eps, activation=activation, backend="reference", **chosen)
    x, weight = given["x"].double(), given["weight"].double()
    if norm_eps is not None:
        x = functional.layer_norm(x, (inner,), eps=norm_eps)
    expected = functional.linear(x, weight, chosen["bias"].double() if "bias" in chosen else None)
    expected = {None: lambda t: t, "gelu": functional.gelu, "relu": functional.relu}[activation](expected)
    if "residual" in chosen:
        expected = expected + chosen["residual"].double()
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT16])
def test_only_the_operands_and_the_result_are_rounded(dtype: torch.dtype) -> None:
    given = operands(9, 64, 24, dtype, dtype)
    out = esat_kernels.linear(**given, activation="gelu", backend="reference")
    product = functional.gelu(given["x"].double() @ given["weight"].double().T + given["bias"].double()) + given["residual"].double()
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), product, rtol=0.51 * 2 ** -(7 if dtype == BFLOAT16 else 10), atol=1e-5)


def test_the_result_has_the_residual_s_dtype_else_x_s_else_the_one_asked_for() -> None:
    given = operands(3, 16, 8, BFLOAT16)
    x, weight, residual = given["x"], given["weight"], given["residual"]
    assert esat_kernels.linear(x, weight).dtype == FLOAT32
    assert esat_kernels.linear(x.to(BFLOAT16), weight).dtype == BFLOAT16
    assert esat_kernels.linear(x.to(BFLOAT16), weight, residual=residual).dtype == FLOAT32
    assert esat_kernels.linear(x, weight, residual=residual, dtype=FLOAT16).dtype == FLOAT16


def test_gradients_go_through_the_reference() -> None:
    given = {name: t.requires_grad_() for name, t in operands(3, 16, 8).items()}
    esat_kernels.linear(**given, norm_eps=1e-6, activation="gelu").sum().backward()
    assert all(t.grad is not None and t.grad.abs().sum() > 0 for t in given.values())


def test_on_a_gpu_the_reference_uses_the_matrix_units() -> None:
    """Fake tensors on a device that need not be there: the product in bfloat16 with a float32 result exists for CUDA only."""
    with FakeTensorMode():
        x, weight = torch.empty(3, 8, device="cuda"), torch.empty(5, 8, dtype=BFLOAT16, device="cuda")
        with _Calls() as calls:
            out = reference.linear(x, weight, None, 1e-6, "gelu", None, BFLOAT16)
    assert out.shape == (3, 5)
    assert out.dtype == BFLOAT16
    assert torch.ops.aten.mm.dtype in calls.seen


class _Calls(TorchDispatchMode):
    """Which operators run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[object] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen.add(func)
        return func(*args, **(kwargs or {}))


X, WEIGHT = torch.zeros(3, 8), torch.zeros(5, 8)
BAD_CALLS = [
    ({"x": X[0]}, ValueError, "expected x [M, K] and weight [N, K], got (8,) and (5, 8)"),
    ({"weight": WEIGHT.T}, ValueError, "expected x [M, K] and weight [N, K], got (3, 8) and (8, 5)"),
    ({"x": X[:0]}, ValueError, "got (0, 8) and (5, 8)"),
    ({"bias": torch.zeros(4)}, ValueError, "bias must be (5,), got (4,)"),
    ({"residual": torch.zeros(5, 3)}, ValueError, "residual must be (3, 5), got (5, 3)"),
    ({"x": X.double()}, TypeError, "x must be float32, bfloat16 or float16, got torch.float64"),
    ({"weight": WEIGHT.int()}, TypeError, "weight must be float32, bfloat16 or float16, got torch.int32"),
    ({"weight": WEIGHT.to("meta")}, ValueError, "weight must be on cpu like x, got meta"),
    ({"x": torch.zeros(8, 3).T}, ValueError, "rows of x must be adjacent in themselves, got strides (1, 3)"),
    ({"dtype": torch.float64}, TypeError, "dtype must be float32, bfloat16 or float16, got torch.float64"),
    ({"norm_eps": 0.0}, ValueError, "norm_eps must be a positive number, got 0.0"),
    ({"activation": "silu"}, ValueError, "activation must be None, 'gelu' or 'relu', got 'silu'"),
    ({"backend": "cpu"}, NotImplementedError, "backend 'cpu' has no kernel for this operation"),
]


@pytest.mark.parametrize(("changes", "error", "message"), BAD_CALLS)
def test_bad_calls(changes, error, message) -> None:
    with pytest.raises(error) as caught:
        esat_kernels.linear(**{"x": X, "weight": WEIGHT, **changes})
    assert message in str(caught.value)


def test_the_reference_leaves_sums_of_squares_of_what_it_rounded():
    given = operands(5, 24, 60, BFLOAT16)
    x, weight, bias = given["x"], given["weight"], given["bias"]
    out, squares = esat_kernels.linear_with_squares(x, weight, bias, first=20, width=10, groups=2, norm_eps=1e-6, backend="reference")
    assert torch.equal(out, esat_kernels.linear(x, weight, bias, norm_eps=1e-6, backend="reference"))
    expected = torch.stack([out[:, 20:30].double().square().sum(1), out[:, 30:40].double().square().sum(1)], 1)
    torch.testing.assert_close(squares.double(), expected, rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="2 groups of 25 columns from 20 on must lie in 60 columns"):
        esat_kernels.linear_with_squares(x, weight, first=20, width=25, groups=2)


def test_the_reference_of_a_norm_between_two_products():
    """What the one in front leaves is the stream's normalised rows to the one behind, whatever its mean."""
    given = operands(2 * 7, 96, 40, BFLOAT16)
    weight, bias = given["weight"], given["bias"]
    for mean in (0.0, 3000.0):
        stream = torch.empty(2, 7, 96)
        centred = esat_kernels.centred_memory(stream)
        assert centred is not None
        assert centred.width == 32
        x, residual = torch.zeros(2, 7, 16, dtype=BFLOAT16), (given["x"] + mean).view(2, 7, 96)
        esat_kernels.linear_into(stream, x, torch.zeros(96, 16, dtype=BFLOAT16), residual=residual, leave=centred, backend="reference")
        assert torch.equal(stream, residual)
        out = torch.empty(2, 7, 40)
        sums = esat_kernels.group_sums(weight)
        esat_kernels.linear_into(out, centred, weight, bias, group_sums=sums, norm_eps=1e-6, activation="gelu", backend="reference")
        exact = functional.layer_norm(stream.double(), (96,), eps=1e-6) @ weight.double().T + bias.double()
        torch.testing.assert_close(out.double(), functional.gelu(exact), rtol=0.02, atol=0.02)
    assert esat_kernels.centred_memory(torch.empty(1, 2, 24)) is None


OUT, ROWS, CENTRED = torch.zeros(1, 3, 16), torch.zeros(1, 3, 16), esat_kernels.centred_memory(torch.zeros(1, 3, 16))
NORM = {"norm_eps": 1e-6, "group_sums": esat_kernels.group_sums(torch.zeros(16, 16))}
COUNTERS = esat_kernels.meeting_counters(torch.device("cpu"))
BAD_INTO = [
    ({"out": OUT[0]}, "expected x [B, n, K] and out [B, n, N], got (1, 3, 16) and (3, 16)"),
    ({"out": torch.zeros(1, 3, 8)}, "out must be (1, 3, 16) on cpu with rows adjacent in themselves"),
    ({"residual": torch.zeros(1, 2, 16)}, "residual must be (1, 3, 16), got (1, 2, 16)"),
    ({"norm_eps": 1e-6}, "a Centred x, norm_eps and group_sums belong together"),
    ({"x": CENTRED}, "a Centred x, norm_eps and group_sums belong together"),
    ({"squares": torch.zeros(3, 2), "width": 16}, "squares of groups of 16 columns from 0 on must be [3, groups], within 16 columns"),
    ({"squares": torch.zeros(1, 3).T, "width": 16}, None),  # a column: contiguous
    ({"squares": torch.zeros(2, 3).T, "width": 8}, "squares must be contiguous, got (3, 2) with strides (1, 3)"),
    ({"squares": torch.zeros(3, 1).half(), "width": 16}, TypeError("squares must be torch.float32, got torch.float16")),
    ({"leave": esat_kernels.centred_memory(torch.zeros(1, 2, 16))}, "leave.rows must be (1, 3, 16) on cpu, got (1, 2, 16) on cpu"),
    ({"leave": CENTRED._replace(statistics=torch.zeros(3, 3, 2))}, "leave.statistics must be (3, 3, 1) on cpu, got (3, 3, 2) on cpu"),
    ({"leave": CENTRED._replace(rows=ROWS.half())}, TypeError("leave.rows must be torch.bfloat16, got torch.float16")),
    ({**NORM, "x": CENTRED}, None),
    ({**NORM, "x": CENTRED._replace(statistics=torch.zeros(3, 2, 1))}, "x.statistics must be (3, 3, 1) on cpu, got (3, 2, 1) on cpu"),
    (
        {**NORM, "x": CENTRED, "group_sums": torch.zeros(2, 16, 8).bfloat16()},
        "group_sums must be (2, 16, 16) on cpu, got (2, 16, 8) on cpu",
    ),
    ({**NORM, "x": CENTRED, "group_sums": torch.zeros(2, 16, 16)}, TypeError("group_sums must be torch.bfloat16, got torch.float32")),
    ({"counters": COUNTERS}, None),
    ({"counters": COUNTERS.long()}, TypeError("counters must be torch.int32, got torch.int64")),
    ({"counters": COUNTERS[:3]}, "counters must be (1024,) on cpu, got (3,) on cpu"),
    ({"counters": torch.zeros(2048, dtype=torch.int32)[::2]}, "counters must be contiguous, got (1024,) with strides (2,)"),
    ({"counters": COUNTERS.to("meta")}, "counters must be (1024,) on cpu, got (1024,) on meta"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_INTO)
def test_bad_calls_into_memory(changes, message) -> None:
    """None: a good one."""
    given = {"out": OUT, "x": ROWS, "weight": torch.zeros(16, 16), **changes}
    if message is None:
        return esat_kernels.linear_into(**given)
    with pytest.raises(type(message) if isinstance(message, Exception) else ValueError) as caught:
        esat_kernels.linear_into(**given)
    assert str(message) in str(caught.value)
