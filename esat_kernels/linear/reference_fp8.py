"""Eight-bit products with what stands around them, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from esat_kernels.linear import fp8, reference


def linear_fp8(
    x: Tensor,
    scales: Tensor | None,
    statistics: Tensor | None,
    weight: Tensor,
    weight_scales: Tensor | None,
    group_sums: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str | None,
    eps: float,
    out: Tensor | None,
    left_rows: Tensor | None,
    left_scales: Tensor | None,
    left_statistics: Tensor | None,
) -> None:
    """activation(norm?(x) weight^T + bias) + residual into out [B, n, N], and into the parts of a `Scaled` or
    a `Centred` of it; sums are float32.

    x [B, n, K] with scales and statistics is a `Scaled`, its weight a `ScaledWeight`; without scales both are bfloat16.
    """
    rows = x.flatten(0, 1).float()
    if scales is not None:
        rows = (rows.unflatten(1, (-1, fp8.GROUP)) * scales.T.unsqueeze(2)).flatten(1)
    found = rows @ weight.float().T
    if statistics is not None and group_sums is not None:
        shift, deviation = reference.normalised(statistics, rows.shape[1], eps)
        found = (found + shift @ group_sums[:, :, : shift.shape[1]].float().sum(0).T) * deviation
    if weight_scales is not None:
        found = found * weight_scales
    found = found if bias is None else found + bias.float()
    found = {None: lambda t: t, "gelu": functional.gelu, "relu": torch.relu}[activation](found)
    found = found if residual is None else found + residual.flatten(0, 1).float()
    if out is not None:
        found = found.to(out.dtype)
        out.copy_(found.view(out.shape))
    if left_rows is None:
        return
    grouped = found.float().unflatten(1, (-1, fp8.GROUP if left_statistics is None else left_rows.shape[2] // left_statistics.shape[2]))
    if left_statistics is not None:
        origin = grouped.mean(2)
        grouped = grouped - origin.unsqueeze(2)
        rest = grouped.mean(2)
        left_statistics.copy_(torch.stack([origin, rest, (grouped - rest.unsqueeze(2)).square().sum(2)]))
    if left_scales is not None:
        grouped, scales = fp8.rounded_groups(grouped)
        left_scales.copy_(scales.T)
    left_rows.copy_(grouped.view(left_rows.shape))
