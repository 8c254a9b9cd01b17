"""The step from maps to the next boxes by the Triton kernel. Triton is imported at the first call."""

from __future__ import annotations

import torch
from torch import Tensor

from esat_kernels import _triton

BLOCK_C = 256  # channels of the features at once
LARGEST_MAP = 128  # cells a side: one program holds the whole map


def warps(side: int) -> int:
    return 4 if side <= 64 else 16


def unsupported(score_map: Tensor, others: tuple[Tensor, ...]) -> str | None:
    """Why this kernel cannot take these maps, or None."""
    reason = _triton.unsupported(score_map, *others)
    if reason is None and score_map.shape[2] > LARGEST_MAP:
        reason = f"the map's side must be at most {LARGEST_MAP}, got {score_map.shape[2]}"
    return reason


@torch.library.custom_op("esat::advance_boxes", mutates_args=("boxes",))
def advance_boxes(
    score_map: Tensor,
    size_map: Tensor,
    offset_map: Tensor,
    window: Tensor,
    regions: Tensor,
    boxes: Tensor,
    frame_size: Tensor,
    margin: int,
    features: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """As the reference, with the same bits."""
    from esat_kernels.decode.triton_kernel import advance_kernel

    batch, _, side, _ = score_map.shape
    record, around = _results(boxes, features)
    inputs = (t.contiguous() for t in (score_map, size_map, offset_map, window, regions))
    with _triton.on_device_of(boxes):
        advance_kernel[(batch,)](
            *inputs, boxes, frame_size.contiguous(), record, None if features is None else features.contiguous(), around, *boxes.stride(),
            around.shape[1], MARGIN=margin, SIDE=side, BLOCK=_triton.power_of_two(side * side), BLOCK_C=BLOCK_C,
            num_warps=warps(side), enable_fp_fusion=False,
        )  # fmt: skip
    return record, around


@advance_boxes.register_fake
def _(score_map, size_map, offset_map, window, regions, boxes, frame_size, margin, features):  # type: ignore[no-untyped-def]
    return _results(boxes, features)


def _results(boxes: Tensor, features: Tensor | None) -> tuple[Tensor, Tensor]:
    channels = 0 if features is None else features.shape[2]
    return boxes.new_empty(boxes.shape[0], 12), boxes.new_empty(boxes.shape[0], channels, dtype=torch.float32)
