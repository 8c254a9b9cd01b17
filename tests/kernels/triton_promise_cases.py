"""What PyTorch and callers are promised of the Triton operators around attention, on a GPU or in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import esat_kernels
from esat_kernels.crop import triton as crop
from esat_kernels.decode import triton as decode
from esat_kernels.elimination import triton as elimination
from esat_kernels.head import triton as head
from esat_kernels.linear import triton as linear
from tests.kernels.test_advance import state
from tests.kernels.test_linear import operands
from tests.kernels.triton_device import BFLOAT16, DEVICE, FLOAT32
from tests.kernels.triton_device import nan_in_fresh_memory as nan_in_fresh_memory  # a fixture of every test here


def test_the_operators_keep_their_promises():
    frame, frame_size = torch.zeros(300, dtype=torch.uint8), torch.tensor([10, 10], dtype=torch.int32)
    boxes, out = torch.tensor([[1.0, 1.0, 4.0, 4.0]]).double(), torch.zeros(1, 1, 768)
    maps, regions, state_boxes = state(2, 4)
    given, wide = operands(3, 16, 8, BFLOAT16), operands(3, 16, 96, BFLOAT16)
    scores, tokens, kept = torch.rand(1, 6), torch.rand(1, 8, 4), torch.tensor([[1, 3]])
    calls = [
        (crop.crop_regions, (frame, frame_size, boxes, 2.0, 16, 16, out, True, [1.0, 1.0, 1.0], [0.0, 0.0, 0.0], None)),
        (decode.advance_boxes, (*maps, regions, state_boxes, frame_size, 10, None)),
        (decode.advance_boxes, (*maps, regions, state_boxes, frame_size, 10, torch.rand(2, 16, 3))),
        (elimination.select_tokens, (scores, 2)),
        (elimination.gather_tokens, (tokens, kept, 2)),
        (elimination.scatter_tokens, (tokens[:, :2], kept, 6)),
        (elimination.eliminate_tokens, (scores, 2, tokens, tokens.bfloat16(), 2, None)),
        (elimination.eliminate_tokens, (scores, 2, tokens, tokens.bfloat16(), 2, torch.arange(6).view(1, 6))),
        (head.head_features, (torch.rand(1, 2, 8), torch.rand(8), torch.rand(8), 1e-6, kept, 6, BFLOAT16)),
        (head.head_maps, (torch.rand(1, 4, 8), torch.rand(5, 8), torch.rand(5), 2)),
        (head.head_convolution, (torch.rand(1, 4, 24), torch.rand(6, 3, 3, 8), torch.rand(6), 3, 2)),
        (head.head_convolution_with_maps, (*(torch.rand(*shape) for shape in ((1, 4, 24), (6, 3, 3, 8), (6,), (5, 6), (5,))), 2)),
        (linear.linear, (given["x"], given["weight"], given["bias"], 1e-6, "gelu", given["residual"], BFLOAT16)),
        (linear.linear, (given["x"], given["weight"], None, None, None, None, FLOAT32)),
        (
            linear.linear_into,
            (
                torch.empty(1, 3, 96, dtype=BFLOAT16),
                wide["x"][None],
                wide["weight"],
                wide["bias"],
                None,
                "gelu",
                None,
                None,
                0.0,
                torch.empty(3, 2),
                32,
                16,
                torch.empty(1, 3, 96, dtype=BFLOAT16),
                torch.empty(3, 3, 3),
                torch.zeros(8, dtype=torch.int32),
            ),
        ),
        (linear.linear_with_squares, (*(wide[name] for name in ("x", "weight", "bias")), 1e-6, BFLOAT16, 32, 16, 2)),
    ]
    for operator, arguments in calls:
        moved = tuple(a.to(DEVICE) if isinstance(a, Tensor) else a for a in arguments)
        torch.library.opcheck(operator, moved, test_utils=("test_schema", "test_faketensor"))


def test_compiled_programs_hold_the_kernels():
    given = {name: t.to(DEVICE) for name, t in operands(5, 32, 8, BFLOAT16).items()}

    def layer(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        out = esat_kernels.linear(x, weight, bias, norm_eps=1e-6, activation="gelu", residual=residual, backend="triton")
        kept = esat_kernels.select_tokens(out.T, 3, backend="triton")
        return esat_kernels.gather_tokens(out.T[:, :, None], kept, 0, backend="triton")

    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(**given), layer(**given))


REFUSALS = [
    (
        lambda: esat_kernels.select_tokens(torch.zeros(1, 9, device=DEVICE).double(), 2, "triton"),
        "scores must be float32, bfloat16 or float16",
    ),
    (lambda: esat_kernels.select_tokens(torch.zeros(1, 4097, device=DEVICE), 2, "triton"), "there must be at most 4096 scores, got 4097"),
    (
        lambda: esat_kernels.scatter_tokens(
            torch.zeros(1, 1, 4, dtype=torch.complex64, device=DEVICE), torch.zeros(1, 1, dtype=torch.int64, device=DEVICE), 2, "triton"
        ),
        "tokens must be real numbers, got torch.complex64",
    ),
    (
        lambda: esat_kernels.linear(
            torch.zeros(2, 4, device=DEVICE, requires_grad=True), torch.zeros(3, 4, device=DEVICE), backend="triton"
        ),
        "this kernel has no gradient",
    ),
    (
        lambda: torch.func.jvp(
            lambda x: esat_kernels.linear(x, torch.zeros(3, 4, device=DEVICE), backend="triton"),
            (torch.zeros(2, 4, device=DEVICE),),
            (torch.ones(2, 4, device=DEVICE),),
        ),
        "this kernel has no forward-mode derivative",
    ),
    (
        lambda: torch.func.jvp(
            lambda v: esat_kernels.fda_attention(*torch.zeros(2, 1, 1, 16, 16, device=DEVICE), v, backend="triton"),
            (torch.zeros(1, 1, 16, 16, device=DEVICE),),
            (torch.ones(1, 1, 16, 16, device=DEVICE),),
        ),
        "this kernel has no forward-mode derivative",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSALS)
def test_frame_refusals(call, message):
    with pytest.raises(NotImplementedError) as error:
        call()
    assert message in str(error.value)
