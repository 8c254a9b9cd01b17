"""The decode kernel against the PyTorch reference: equal bits, first maximum, special values."""

from __future__ import annotations

import math
import re

import pytest
import torch

import esat_kernels
from esat_kernels import _native
from tests.kernels.defaults import DEFAULTS, set_default
from tests.require import require


@pytest.fixture(autouse=True)
def _library() -> None:
    require("cpu", _native.unavailable())


def maps(batch: int, side: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    score = torch.rand(batch, 1, side, side, generator=generator)
    size = torch.rand(batch, 2, side, side, generator=generator)
    offset = torch.randn(batch, 2, side, side, generator=generator)
    return score, size, offset


def hann(side: int) -> torch.Tensor:
    window = torch.hann_window(side + 2, periodic=False)[1:-1]
    return torch.outer(window, window)


def same(got: esat_kernels.Decoded, expected: esat_kernels.Decoded) -> None:
    for name, a, b in zip(got._fields, got, expected, strict=True):
        assert a.dtype == b.dtype, name
        assert a.shape == b.shape, name
        assert torch.equal(a.nan_to_num(nan=-1), b.nan_to_num(nan=-1)), name


@pytest.mark.parametrize("side", [1, 2, 7, 16, 24])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("windowed", [True, False])
def test_equals_the_reference(side: int, batch: int, windowed: bool) -> None:
    window = hann(side) if windowed else None
    for seed in range(20):
        arguments = (*maps(batch, side, seed), window)
        same(esat_kernels.decode_maps(*arguments, backend="cpu"), esat_kernels.decode_maps(*arguments, backend="reference"))


@pytest.mark.parametrize("default", DEFAULTS, ids=str)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_defaults_of_pytorch_change_nothing(backend: str, default: torch.dtype | torch.device) -> None:
    arguments = (*maps(2, 5), hann(5))
    expected = esat_kernels.decode_maps(*arguments, backend=backend)
    with set_default(default):
        got = esat_kernels.decode_maps(*arguments, backend=backend)
    same(got, expected)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_first_of_equal_maxima(backend: str) -> None:
    score, size, offset = maps(1, 5)
    score[:] = 0.5
    assert esat_kernels.decode_maps(score, size, offset, backend=backend).cell.tolist() == [0]
    score[0, 0, 2, 3] = score[0, 0, 4, 1] = 0.75
    decoded = esat_kernels.decode_maps(score, size, offset, backend=backend)
    assert decoded.cell.tolist() == [13]
    assert decoded.score.tolist() == [0.75]
    torch.testing.assert_close(decoded.box[0, 0], (3 + offset[0, 0, 2, 3]) / 5)
    torch.testing.assert_close(decoded.box[0, 1], (2 + offset[0, 1, 2, 3]) / 5)
    assert torch.equal(decoded.box[0, 2:], size[0, :, 2, 3])


@pytest.mark.parametrize("values", [(math.nan,), (-math.inf,), (math.inf, math.nan), (math.inf, math.inf), (-0.0, 0.0)])
def test_special_scores(values: tuple[float, ...]) -> None:
    score, size, offset = maps(2, 4)
    if values == (-math.inf,):
        score[1] = -math.inf
    else:
        score[1] = -score[1]
        for cell, value in zip((6, 9), values, strict=False):
            score[1, 0].view(-1)[cell] = value
    arguments = (score, size, offset)
    same(esat_kernels.decode_maps(*arguments, backend="cpu"), esat_kernels.decode_maps(*arguments, backend="reference"))


def test_strided_maps() -> None:
    score, size, offset = (m.transpose(2, 3) for m in maps(2, 6))
    window = hann(6).T
    same(
        esat_kernels.decode_maps(score, size[:, [1, 0]].flip(3), offset, window, backend="cpu"),
        esat_kernels.decode_maps(score, size[:, [1, 0]].flip(3), offset, window, backend="reference"),
    )


def test_what_the_kernel_cannot_take_goes_to_the_reference() -> None:
    score, size, offset = maps(1, 4)
    doubles = (score.double(), size.double(), offset.double())
    assert esat_kernels.decode_maps(*doubles).box.dtype == torch.float64
    with pytest.raises(NotImplementedError, match="maps and window must be float32, got"):
        esat_kernels.decode_maps(*doubles, backend="cpu")
    size.requires_grad_()
    esat_kernels.decode_maps(score, size, offset).box.sum().backward()
    assert size.grad is not None
    assert size.grad.sum() == 2
    with pytest.raises(NotImplementedError, match="this kernel has no gradient"):
        esat_kernels.decode_maps(score, size, offset, backend="cpu")


SCORE, SIZE, OFFSET = maps(2, 4)
BAD_CALLS = [
    ((SCORE[:, 0], SIZE, OFFSET, None), "score_map must be [B, 1, F, F], got (2, 4, 4)"),
    ((SCORE[..., :3], SIZE, OFFSET, None), "score_map must be [B, 1, F, F], got (2, 1, 4, 3)"),
    ((SCORE[..., :0, :0], SIZE[..., :0, :0], OFFSET[..., :0, :0], None), "score_map must have a cell, got (2, 1, 0, 0)"),
    ((SCORE, SIZE[:1], OFFSET, None), "size_map must be (2, 2, 4, 4), got (1, 2, 4, 4)"),
    ((SCORE, SIZE, OFFSET[..., :3], None), "offset_map must be (2, 2, 4, 4), got (2, 2, 4, 3)"),
    ((SCORE, SIZE, OFFSET, torch.ones(5, 5)), "window must be (4, 4), got (5, 5)"),
]


@pytest.mark.parametrize("backend", ["auto", "cpu", "reference"])
@pytest.mark.parametrize(("arguments", "message"), BAD_CALLS)
def test_bad_calls(arguments, message, backend) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        esat_kernels.decode_maps(*arguments, backend=backend)
