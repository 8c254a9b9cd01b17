"""The launches that the Triton backends make, with the specialisations that real arguments cause: compiled for sm_90, not run.

The interpreter takes no argument for a constant; a GPU does so with every stride and size that is 1, and with absent tensors.
"""

from __future__ import annotations

import importlib.util
import re

import pytest
import torch

import esat_kernels
from benchmarks.sass import find_tool
from esat_kernels import _device
from esat_kernels import _triton as shared
from esat_kernels.attention import triton as attention
from esat_kernels.attention.common import Forces, Scores
from esat_kernels.crop import triton as crop
from esat_kernels.decode import triton as decode
from esat_kernels.elimination import triton as elimination
from esat_kernels.head import triton as head
from esat_kernels.linear import triton as linear
from tests.kernels import cubin, launches, wgmma
from tests.require import require

# From Triton 3.9 on a launch that leaves fused multiply-adds to the default warns.
pytestmark = [pytest.mark.cubin, pytest.mark.filterwarnings("error::UserWarning")]
BFLOAT16, FLOAT16, FLOAT32 = torch.bfloat16, torch.float16, torch.float32


@pytest.fixture(autouse=True)
def _triton():
    require("triton", None if importlib.util.find_spec("triton") else "Triton is not installed")
    require("triton", None if find_tool("cuobjdump") else "no cuobjdump")


@pytest.fixture
def launched():
    """The launches of a test, checked at its end."""
    with launches.recorded(90) as found:
        yield found
    assert found
    for launch in found:
        assert launch.compiled.metadata.shared <= cubin.SHARED_LIMIT[90]
        assert not wgmma.hazards(launch.compiled.asm["ttgir"], launch.compiled.metadata.num_stages)
        assert "tf32" not in launch.compiled.asm["ptx"]


@pytest.mark.parametrize(
    ("batch", "heads", "tokens", "head_dim", "dtype"),
    [(1, 12, 65, 64, BFLOAT16), (1, 2, 65, 20, FLOAT16), (1, 1, 33, 1, FLOAT16), (1, 1, 1, 64, BFLOAT16), (2, 1, 1, 1, FLOAT32)],
)
def test_attention(launched, batch, heads, tokens, head_dim, dtype):
    qkv = torch.zeros(batch, tokens, 3, heads, head_dim, dtype=dtype).permute(2, 0, 3, 1, 4)
    for alpha, beta in ((0.1, 0.1), (0.0, 0.0)):
        forces = Forces(alpha, beta, 0.125, 0.125)
        out, _, lse = attention.forward(*qkv, forces, Scores(max(1, tokens // 5), 0))
        attention.backward(torch.zeros(1, dtype=dtype).expand(out.shape), *qkv, out, lse, forces)


@pytest.mark.parametrize(("rows", "inner", "columns"), [(1, 1, 1), (1, 96, 1), (5, 1, 40), (18, 33, 40), (343, 3072, 768)])
@pytest.mark.parametrize(("dtype", "stream"), [(BFLOAT16, FLOAT32), (FLOAT32, FLOAT32)])
def test_products(launched, rows, inner, columns, dtype, stream):
    x, weight = torch.zeros(rows, inner, dtype=stream), torch.zeros(columns, inner, dtype=dtype)
    linear.linear(x, weight, torch.zeros(columns), 1e-6, "gelu", torch.zeros(rows, columns), FLOAT32)
    linear.linear(x, weight, None, None, None, None, dtype)
    for launch in launched:
        if launch.name == "product_kernel":
            (facts,) = cubin.inspect(launch.compiled.asm["cubin"]).values()
            assert (facts.instructions["HMMA"] + facts.instructions["HGMMA"] > 0) == (dtype == BFLOAT16)


@pytest.mark.parametrize(("batch", "size", "dtype"), [(1, 384, BFLOAT16), (2, 16, FLOAT32)])
@pytest.mark.parametrize("matrix", [None, "bt709"])
def test_crops(launched, batch, size, dtype, matrix):
    frame, frame_size, boxes = torch.zeros(3000, dtype=torch.uint8), torch.zeros(2, dtype=torch.int32), torch.zeros(batch, 4).double()
    out = torch.zeros(batch, (size // 16) ** 2, 768, dtype=dtype)
    crop.crop_regions(frame, frame_size, boxes, 4.1, size, 16, out, True, [1 / 3, 2.0, 1.0], [0.0, 1.0, -0.1], matrix)
    (launch,) = launched
    _keeps_every_rounding(launch)
    assert "0d4010666666666666" in launch.compiled.asm["ptx"].lower(), "4.1 as a double"


@pytest.mark.parametrize(("batch", "side", "dtype"), [(1, 24, FLOAT32), (2, 16, BFLOAT16), (1, 1, FLOAT32), (1, 2, FLOAT16)])
def test_the_step_to_the_next_boxes(launched, batch, side, dtype):
    score, size, offset = (torch.zeros(batch, channels, side, side, dtype=dtype) for channels in (1, 2, 2))
    regions, boxes, frame_size = torch.zeros(batch, 3).double(), torch.zeros(batch, 4).double(), torch.zeros(2, dtype=torch.int32)
    for features in (None, torch.zeros(batch, side * side, 768, dtype=dtype)):
        decode.advance_boxes(score, size, offset, torch.zeros(side, side), regions, boxes, frame_size, 10, features)
    assert len(launched) == 2
    for launch in launched:
        _keeps_every_rounding(launch)


def _keeps_every_rounding(launch):
    """No fused multiply-add in float64, and none that the assembler could make: operations without .rn are free for it."""
    assert not launch.compiled.metadata.enable_fp_fusion
    ptx = launch.compiled.asm["ptx"]
    assert "fma.rn.f64" not in ptx
    assert not [operation for name in ("add", "sub", "mul") for operation in (f"{name}.f32", f"{name}.f64") if f"{operation} " in ptx]


@pytest.mark.parametrize(
    ("batch", "num_template", "count", "keep", "channels", "dtype"),
    [(1, 144, 576, 404, 768, FLOAT32), (2, 0, 1, 1, 1, BFLOAT16), (1, 1, 17, 16, 7, torch.uint8), (1, 2, 4096, 4095, 5, torch.float64)],
)
def test_elimination(launched, batch, num_template, count, keep, channels, dtype):
    scores, kept = torch.zeros(batch, count), torch.zeros(batch, keep, dtype=torch.int64)
    tokens = torch.zeros(batch, num_template + count, channels, dtype=dtype)
    elimination.select_tokens(scores, keep)
    for places in (None, torch.zeros(batch, count, dtype=torch.int64)):
        elimination.eliminate_tokens(scores, keep, tokens, tokens.bfloat16(), num_template, places)
    elimination.gather_tokens(tokens, kept, num_template)
    elimination.scatter_tokens(tokens[:, :keep], kept, count)


@pytest.mark.parametrize(("batch", "count", "side", "dim", "channels"), [(1, 199, 24, 768, 96), (2, 1, 1, 1, 1)])
@pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT32])
def test_the_head(launched, batch, count, side, dim, channels, dtype):
    tokens, kept = torch.zeros(batch, count, dim), torch.zeros(batch, count, dtype=torch.int64)
    head.head_features(tokens, tokens[0, 0], tokens[0, 0], 1e-6, kept, side * side, dtype)
    head.head_features(tokens, tokens[0, 0], tokens[0, 0], 1e-6, None, count, dtype)
    head.head_maps(torch.zeros(batch, side * side, channels, dtype=dtype), torch.zeros(5, channels), torch.zeros(5), side)


@pytest.mark.parametrize(("batch", "side", "dim", "width"), [(1, 24, 768, 256), (1, 16, 384, 128), (2, 1, 8, 8)])
@pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT32])
def test_the_head_s_convolutions(launched, batch, side, dim, width, dtype):
    widths = [dim, width, width // 2, width // 4, width // 8]
    x = torch.zeros(batch, side * side, dim, dtype=dtype)
    for layer in range(3):
        groups, outputs = (3 if layer else 1), 3 * widths[layer + 1]
        weight, bias = torch.zeros(outputs, 3, 3, widths[layer], dtype=dtype), torch.zeros(outputs, dtype=dtype)
        x = head.head_convolution(x, weight, bias, groups, side)
    weight, bias = torch.zeros(3 * widths[4], 3, 3, widths[3], dtype=dtype), torch.zeros(3 * widths[4], dtype=dtype)
    head.head_convolution_with_maps(x, weight, bias, torch.zeros(5, 3 * widths[4]), torch.zeros(5), side)
    assert [launch.name for launch in launched] == ["convolution_kernel"] * 4
    for launch in launched:
        (facts,) = cubin.inspect(launch.compiled.asm["cubin"]).values()
        assert facts.stack == 0 or dtype == FLOAT32, "registers spill"
        assert (facts.instructions["HMMA"] + facts.instructions["HGMMA"] > 0) == (dtype == BFLOAT16)


@pytest.mark.parametrize(("batch", "count", "inner", "columns"), [(1, 720, 768, 2304), (2, 61, 64, 192), (1, 1, 16, 16)])
def test_products_around_a_norm(launched, batch, count, inner, columns):
    stream, x = torch.zeros(batch, count, inner), torch.zeros(batch, count, 64, dtype=BFLOAT16)
    centred, weight = esat_kernels.centred_memory(stream), torch.zeros(columns, inner, dtype=BFLOAT16)
    out, norms = torch.zeros(batch, count, columns, dtype=BFLOAT16), torch.zeros(batch * count, 1)
    for residual in (stream, stream[:1].expand(batch, -1, -1)):
        before = (stream, x, torch.zeros(inner, 64, dtype=BFLOAT16), torch.zeros(inner).bfloat16(), residual, None)
        linear.linear_into(*before, None, None, 0.0, None, 0, 1, *centred)
    for squares in (None, norms):
        behind = (out, centred.rows, weight, torch.zeros(columns).bfloat16(), None, "gelu")
        linear.linear_into(*behind, centred.statistics, esat_kernels.group_sums(weight), 1e-6, squares, 0, 16, None, None)


def test_launches_before_the_one_in_front_is_done(launched, monkeypatch):
    """They wait before they read or write anything but weights; whoever launches them waits for them whole."""
    monkeypatch.setattr(_device, "has_dependent_launches", lambda device: True)
    tokens, x = torch.zeros(1, 343, 768), torch.zeros(1, 343, 3072, dtype=BFLOAT16)
    centred, kept = esat_kernels.centred_memory(tokens), torch.zeros(1, 343, dtype=torch.int64)
    weight, bias, out = torch.zeros(3072, 768, dtype=BFLOAT16), torch.zeros(768, dtype=BFLOAT16), torch.zeros(1, 343, 3072, dtype=BFLOAT16)

    def all_of_them():
        monkeypatch.setattr(shared, "multiprocessors", lambda device: 132)
        linear.linear_into(tokens, x, weight.view(768, 3072), bias, tokens, None, None, None, 0.0, None, 0, 1, *centred)
        more = torch.zeros(1, 720, 768), x[:, :1].expand(1, 720, -1).contiguous(), weight.view(768, 3072)
        linear.linear_into(*more, bias, more[0], None, None, None, 0.0, None, 0, 1, None, None, esat_kernels.meeting_counters(x.device))
        sums = esat_kernels.group_sums(weight)
        linear.linear_into(out, centred.rows, weight, None, None, "gelu", centred.statistics, sums, 1e-6, None, 0, 1, None, None)
        elimination.eliminate_tokens(torch.zeros(1, 200), 140, tokens, tokens.bfloat16(), 143, None)
        head.head_features(tokens, bias.float(), bias.float(), 1e-6, kept, 576, BFLOAT16)
        head.head_convolution(tokens.bfloat16()[:, :256], torch.zeros(96, 3, 3, 768, dtype=BFLOAT16), bias[:96], 1, 16)

    all_of_them()
    names = [launch.name for launch in launched]
    assert names == [
        "product_kernel",
        "sum_kernel",
        "product_kernel",
        "product_kernel",
        "eliminate_kernel",
        "features_kernel",
        "convolution_kernel",
    ]
    assert not any("griddepcontrol" in launch.compiled.asm["ptx"] or launch.compiled.metadata.launch_pdl for launch in launched)
    launched.clear()
    with shared.dependent_launches(True):
        all_of_them()
    assert [launch.name for launch in launched] == names
    for launch in launched:
        assert launch.compiled.metadata.launch_pdl
        before, after = launch.compiled.asm["ptx"].split("griddepcontrol.wait", 1)
        assert not re.search(r"\b(ld|st|atom|red)\.global|cp\.async\.c[ag]", before)
        assert "griddepcontrol.wait" not in after
        assert "griddepcontrol.launch_dependents" in after
        assert ("cp.async.bulk.prefetch.L2.global" in before) == (launch.name == "product_kernel")
        (facts,) = cubin.inspect(launch.compiled.asm["cubin"]).values()
        assert facts.instructions["ACQBULK"] == 1
