"""What the eight-bit products have to meet on a GPU: each product the reference's values, each layer of a frame the reference in fp8."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from benchmarks.gpu.accuracy import DTYPE, NetworkFrame
from engine.runners.gpu.choices import Choices
from engine.runners.gpu.products import Stream
from engine.runners.gpu.products_fp8 import Fp8Rest
from engine.runners.gpu.weights import fold_weights
from engine.weights.io import Weights
from esat_kernels.linear import fp8, reference_fp8
from esat_kernels.linear.triton_fp8 import Work

SUMS = 2.0**-11  # error of a sum, of the sum of magnitudes: Hopper's matrix units keep about 14 bits of 128 products
HALF_STEP, LEAST_STEP = 2.0**-4, 2.0**-10  # of e4m3: of a value, and of its scale
# How far a layer may be from the reference in fp8, of what rounding to e4m3 makes of it: where sums are as far off as `SUMS` allows, some values
# are rounded the other way. In emulation at the widths of esat-384 (the tests have smaller ones) that comes to 0.38 of it in the whole and 0.52 in
# the worst row or column. If all scales of the MLP's first weight are 2 % off it is 0.53 in the whole, with weights of two bits of mantissa 1.4; if
# one output's scale of the second is 10 % off, 1.5 in its column.
IN_THE_WHOLE, IN_A_LINE = 0.5, 0.75


def exact(work: Work) -> tuple[Tensor, Tensor]:
    """The product's values in float32 [M, N] by the reference, and the error that its sums may have."""
    values = torch.empty(*work.x.shape[:2], work.weight.shape[0], device=work.x.device)
    plain = dataclasses.replace(work, out=values, left_rows=None, left_scales=None, left_statistics=None)
    reference_fp8.linear_fp8(**{field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)})
    rows = work.x.flatten(0, 1).float().abs()
    if work.scales is not None:
        rows = (rows.unflatten(1, (-1, fp8.GROUP)) * work.scales.T.unsqueeze(2)).flatten(1)
    limit = rows @ work.weight.float().abs().T
    if work.weight_scales is not None:
        limit = limit * work.weight_scales
    if work.statistics is not None:  # the rows' deviation
        limit = limit * reference_fp8.reference.normalised(work.statistics, rows.shape[1], work.eps)[1]
    return values.flatten(0, 1), SUMS * 1.2 * limit + 1e-5


def right(work: Work, values: Tensor, limit: Tensor) -> bool:
    """Whether what lies in the memory of `work` is `values`: the result, and what the next product reads."""
    good = work.out is None or bool(((work.out.flatten(0, 1).float() - values).abs() <= limit).all())
    if work.left_rows is None:
        return good
    return good and left_right(values, limit, work.left_rows.flatten(0, 1), work.left_scales, work.left_statistics)


def left_right(values: Tensor, limit: Tensor, rows: Tensor, scales: Tensor | None, statistics: Tensor | None) -> bool:
    """Whether the parts of a `Scaled`, or without scales of a `Centred`, say `values` [M, N], each of which may be `limit` off: the rows, and of
    each group its mean, which is the origin and what it lacks, and the squared distances from that.
    """
    left = rows.float()
    step = HALF_STEP / 16 * left.abs() + 1e-6  # of bfloat16
    if scales is not None:
        wide = scales.T.repeat_interleave(fp8.GROUP, 1)
        left = left * wide
        step = torch.maximum(HALF_STEP * 1.07 * left.abs(), LEAST_STEP * wide)
    good = True
    if statistics is not None:
        groups, off = (of.unflatten(1, (statistics.shape[2], -1)) for of in (values, limit))
        left = left + statistics[0].repeat_interleave(groups.shape[2], 1)
        mean, most = groups.mean(2), off.amax(2)
        digits = 1e-6 * groups.abs().amax(2)  # of float32
        good &= bool(((statistics[0] + statistics[1] - mean).abs() <= most + digits).all())
        distance, wrong = (groups - mean.unsqueeze(2)).abs(), 2 * (most + digits).unsqueeze(2)
        squares, allowed = distance.square().sum(2), (2 * distance * wrong + wrong.square()).sum(2)
        good &= bool(((statistics[2] - squares).abs() <= allowed + 1e-4 * squares).all())
    return good and bool(((left - values).abs() <= step + 1.1 * limit).all())  # False for NaN


class Layer(NamedTuple):
    """What stands behind the attention of one layer: what it was given in a frame, and what it made of it."""

    attended: Tensor
    tokens: Tensor
    last: bool
    made: Stream


def layers_of(frame: NetworkFrame) -> list[Layer]:
    """Those of an eager frame in fp8."""
    found = []
    call = Fp8Rest.__call__

    def spy(self: Fp8Rest, attended: Tensor, tokens: Tensor, last: bool) -> Stream:
        given = attended.clone(), tokens.clone()
        made = call(self, attended, tokens, last)
        found.append(Layer(*given, last, made))
        return made

    with mock.patch.object(Fp8Rest, "__call__", spy):
        frame.eager()
    return found


@torch.no_grad()
def layer_errors(weights: Weights, layers: list[Layer]) -> dict[str, Any]:
    """How far each layer is from the one of these weights by the reference in fp8, of how far that is from float32: root mean squares, of all and
    of the worst row or column. Each is given what it had in the frame: else what one layer rounds differently would hide what the next does wrong.

    "left": whether what is left for q, k and v is what is in the stream.
    """
    device = layers[0].tokens.device
    folded = {
        dtype: fold_weights(weights.state_dict, weights.config, device, dtype, Choices(), "reference", dtype == DTYPE).layers
        for dtype in (DTYPE, torch.float32)
    }
    whole, line, left = [], [], True
    for (attended, tokens, last, made), eight_bits, full in zip(layers, folded[DTYPE], folded[torch.float32], strict=True):
        expected = eight_bits.rest(attended, tokens, last).tokens
        rounding = (expected - full.rest(attended.float(), tokens, last).tokens).flatten(0, 1).square()
        error = (made.tokens - expected).flatten(0, 1).square()
        whole.append((error.mean() / rounding.mean()).sqrt())
        line += [(error.mean(place) / rounding.mean(place)).amax().sqrt() for place in (0, 1)]
        if made.centred is not None:
            values = made.tokens.flatten(0, 1)
            left &= left_right(values, torch.zeros_like(values), made.centred.rows.flatten(0, 1), None, made.centred.statistics)
        left &= last == (made.centred is None)
    found: dict[str, Any] = {"in_the_whole": float(torch.stack(whole).max()), "in_a_line": float(torch.stack(line).max()), "left": left}
    return {**found, "ok": left and found["in_the_whole"] <= IN_THE_WHOLE and found["in_a_line"] <= IN_A_LINE}  # False for NaN
