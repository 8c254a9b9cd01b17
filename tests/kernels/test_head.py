"""The head's features and maps by the reference, against the formulas; their errors."""

from __future__ import annotations

import math

import pytest
import torch

import esat_kernels


def test_features_are_the_normalised_tokens_at_their_places() -> None:
    tokens, gain, bias = torch.randn(2, 3, 8) * 5 + 100, torch.randn(8), torch.randn(8)
    kept = torch.tensor([[0, 2, 5], [1, 3, 4]])
    out = esat_kernels.head_features(tokens, gain, bias, 1e-6, kept, 6, torch.float32)
    exact = torch.nn.functional.layer_norm(tokens.double(), (8,), gain.double(), bias.double(), 1e-6)
    for item in range(2):
        torch.testing.assert_close(out[item, kept[item]].double(), exact[item], rtol=1e-4, atol=1e-4)
        others = [place for place in range(6) if place not in kept[item].tolist()]
        assert (out[item, others] == 0).all()
    whole = esat_kernels.head_features(tokens, gain, bias, 1e-6, None, 3, torch.bfloat16)
    assert torch.equal(whole, torch.nn.functional.layer_norm(tokens, (8,), gain, bias, 1e-6).bfloat16())


def test_maps_are_those_of_the_branches() -> None:
    hidden, weight, bias = torch.randn(2, 9, 6), torch.randn(5, 6) * 4, torch.randn(5)
    hidden[1, 4], hidden[0, 0] = 100.0, math.nan
    score, size, offset = esat_kernels.head_maps(hidden, weight, bias, 3)
    logits = torch.nn.functional.linear(hidden, weight, bias).transpose(1, 2).unflatten(2, (3, 3))
    for map_, rows, squashed in ((score, slice(0, 1), True), (offset, slice(1, 3), False), (size, slice(3, 5), True)):
        expected = logits[:, rows].sigmoid().clamp(1e-4, 1 - 1e-4) if squashed else logits[:, rows]
        assert map_.is_contiguous()
        torch.testing.assert_close(map_, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
        assert map_[0, :, 0, 0].isnan().all()


TOKENS, ROW, KEPT = torch.zeros(2, 3, 8), torch.zeros(8), torch.zeros(2, 3, dtype=torch.int64)
HIDDEN, WEIGHT, BIAS = torch.zeros(2, 9, 6), torch.zeros(5, 6), torch.zeros(5)
BAD_FEATURES = [
    ((TOKENS[0], ROW, ROW, 1e-6, KEPT, 6, torch.float32), ValueError, "expected tokens [B, n, C], gain [C] and bias [C], got (3, 8)"),
    ((TOKENS, ROW[:4], ROW, 1e-6, KEPT, 6, torch.float32), ValueError, "got (2, 3, 8), (4,), (8,)"),
    (
        (TOKENS, ROW, ROW, 1e-6, KEPT[:, :2], 6, torch.float32),
        ValueError,
        "kept must be (2, 3) for a length of at least that, got (2, 2) and 6",
    ),
    ((TOKENS, ROW, ROW, 1e-6, KEPT, 2, torch.float32), ValueError, "got (2, 3) and 2"),
    ((TOKENS, ROW, ROW, 1e-6, None, 6, torch.float32), ValueError, "got none and 6"),
    ((TOKENS.double(), ROW, ROW, 1e-6, KEPT, 6, torch.float32), TypeError, "tokens must be float32, got torch.float64"),
    ((TOKENS, ROW, ROW, 1e-6, KEPT.int(), 6, torch.float32), TypeError, "kept must be int64, got torch.int32"),
    ((TOKENS, ROW, ROW, 1e-6, KEPT, 6, torch.float64), TypeError, "dtype must be float32, bfloat16 or float16, got torch.float64"),
    ((TOKENS, ROW, ROW.to("meta"), 1e-6, KEPT, 6, torch.float32), ValueError, "all tensors must be on cpu, got meta"),
    ((TOKENS, ROW, ROW, 1e-6, KEPT, 6, torch.float32, "cpu"), NotImplementedError, "backend 'cpu' has no kernel for this operation"),
]
BAD_MAPS = [
    ((HIDDEN, WEIGHT, BIAS, 4), ValueError, "expected hidden [B, 16, C], weight [5, C] and bias [5], got (2, 9, 6)"),
    ((HIDDEN, WEIGHT[:4], BIAS, 3), ValueError, "got (2, 9, 6), (4, 6), (5,)"),
    ((HIDDEN, WEIGHT.bfloat16(), BIAS, 3), TypeError, "weight and bias float32, got torch.float32, torch.bfloat16, torch.float32"),
    ((HIDDEN, WEIGHT.to("meta"), BIAS, 3), ValueError, "all tensors must be on cpu, got meta"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_FEATURES)
def test_bad_calls_of_features(arguments, error, message) -> None:
    with pytest.raises(error) as caught:
        esat_kernels.head_features(*arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_MAPS)
def test_bad_calls_of_maps(arguments, error, message) -> None:
    with pytest.raises(error) as caught:
        esat_kernels.head_maps(*arguments)
    assert message in str(caught.value)
