"""Force-directed attention by the compiled CUDA kernel (forward only): addresses, strides and the stream go to the native library."""

from __future__ import annotations

import torch
from torch import Tensor

from esat_kernels import _device, _native
from esat_kernels.attention.common import Forces, Scores, address, empty_out, gpu_unsupported

HEAD_DIMS = (32, 64, 96, 128)
_DTYPES = {torch.bfloat16: "bfloat16", torch.float16: "float16"}


def available(device: torch.device | None = None) -> str | None:
    """None if the CUDA kernel can run here (on this device, by default the current one), else why not."""
    status = _native.cuda_status()
    return status if status.startswith("not built") else _device.cuda_unavailable(device)


def unsupported(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    """Why this kernel cannot take q, k, v, or None."""
    reason = available(q.device if q.device.type == "cuda" else None)
    if reason is not None:
        return reason
    if q.device.type != "cuda":
        return f"the input must be on a CUDA device, got {q.device}"
    reason = gpu_unsupported(q, _DTYPES, "bfloat16 or float16", HEAD_DIMS, "be 32, 64, 96 or 128")
    if reason is not None:
        return reason
    if torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v)):
        return "it has no backward, use triton"
    for name, tensor in (("query", q), ("key", k), ("value", v)):
        if tensor.stride(3) != 1:
            return f"the head dimension of the {name} must be contiguous, got stride {tensor.stride(3)}"
        address = 0 if torch.compiler.is_compiling() else tensor.data_ptr()  # the launcher checks it again
        if address % 16 or any(tensor.stride(dim) % 8 for dim in range(3)):
            return f"address and strides of the {name} must be multiples of 16 bytes, got {address:#x} and {tensor.stride()}"
    return None


def forward(q: Tensor, k: Tensor, v: Tensor, forces: Forces, wanted: Scores, rows: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """out [B, H, N, D] (stored as [B, N, H, D]), the wanted scores, lse float32 [B, H, N].

    rows: queries per thread block, 32, 48, 64 or 80 (80 up to D = 64); 0 lets the launcher choose. Inputs as `unsupported` allows them.
    """
    out, scores = empty_out(q), wanted.empty(q)
    lse = q.new_empty(q.shape[:3], dtype=torch.float32)
    logits = torch.empty_like(lse) if scores.numel() else None
    with torch.cuda.device(q.device):
        _native.library().fda_forward_cuda(
            _DTYPES[q.dtype],
            tuple(q.shape),
            forces,
            *(item for tensor in (q, k, v, out) for item in address(tensor)),
            lse.data_ptr(),
            0 if logits is None else logits.data_ptr(),
            0 if logits is None else scores.data_ptr(),
            *wanted,
            rows,
            torch.cuda.current_stream().cuda_stream,
        )
    return out, scores, lse
