"""Crops of several boxes by the Triton kernel. Triton is imported at the first call."""

from __future__ import annotations

import torch
from torch import Tensor

from esat_kernels import _triton
from esat_kernels.crop.geometry import LARGEST_SIDE
from esat_kernels.crop.nv12 import MATRICES

WARPS = 4


def unsupported(frame: Tensor, boxes: Tensor, out: Tensor) -> str | None:
    """Why this kernel cannot make these crops, or None."""
    reason = _triton.unsupported(frame, boxes, out)
    if reason is None and boxes.shape[0] > 65535:
        reason = f"there must be at most 65535 boxes, got {boxes.shape[0]}"
    return reason


@torch.library.custom_op("esat::crop_regions", mutates_args=("out",))
def crop_regions(
    frame: Tensor,
    frame_size: Tensor,
    boxes: Tensor,
    factor: float,
    size: int,
    patch: int,
    out: Tensor,
    reverse: bool,
    scale: list[float],
    bias: list[float],
    matrix: str | None,
) -> Tensor:
    """As the reference, with the same bits."""
    from esat_kernels.crop.triton_kernel import crop_kernel

    batch = boxes.shape[0]
    coefficients = None if matrix is None else tuple(MATRICES[matrix])
    regions = boxes.new_empty(batch, 3)
    with _triton.on_device_of(frame):
        crop_kernel[((size // patch) ** 2, batch)](
            frame, frame_size.contiguous(), boxes, out, regions, frame.numel(), *boxes.stride(), *out.stride()[:2], *scale, *bias,
            FACTOR=factor, LARGEST_SIDE=LARGEST_SIDE, SIZE=size, PATCH=patch, REVERSE=reverse, MATRIX=coefficients,
            num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip
    return regions


@crop_regions.register_fake
def _(frame, frame_size, boxes, factor, size, patch, out, reverse, scale, bias, matrix):  # type: ignore[no-untyped-def]
    return boxes.new_empty(boxes.shape[0], 3)
