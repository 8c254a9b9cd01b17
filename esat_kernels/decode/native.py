"""The box at the best cell of the score map, by the compiled CPU kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from esat_kernels import _native


def unsupported(score_map: Tensor, size_map: Tensor, offset_map: Tensor, window: Tensor | None) -> str | None:
    """Why this kernel cannot take these maps, or None."""
    tensors = [score_map, size_map, offset_map, *([] if window is None else [window])]
    reason = _native.unsupported_tensors(*tensors)
    if reason is None and any(tensor.dtype != torch.float32 for tensor in tensors):
        reason = f"maps and window must be float32, got {', '.join(str(tensor.dtype) for tensor in tensors)}"
    return reason


def decode_maps(score_map: Tensor, size_map: Tensor, offset_map: Tensor, window: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As the reference: box [B, 4], raw score [B], weighted score [B], cell index [B] int64."""
    score_map, size_map, offset_map = score_map.contiguous(), size_map.contiguous(), offset_map.contiguous()
    window = None if window is None else window.contiguous()
    batch, _, side, _ = score_map.shape
    box, score, weighted = (score_map.new_empty(shape) for shape in ((batch, 4), (batch,), (batch,)))
    index = score_map.new_empty(batch, dtype=torch.int64)
    _native.library().decode_maps(
        *(score_map.data_ptr(), size_map.data_ptr(), offset_map.data_ptr(), 0 if window is None else window.data_ptr()),
        *(batch, side, box.data_ptr(), score.data_ptr(), weighted.data_ptr(), index.data_ptr()),
    )
    return box, score, weighted, index
