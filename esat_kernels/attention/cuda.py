"""Force-directed attention by the compiled CUDA kernel (forward only): addresses, strides and the stream go to the native library."""

from __future__ import annotations

import torch
from torch import Tensor

from esat_kernels import _device, _native
from esat_kernels.attention import gpu_checks

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
    reason = gpu_checks.unsupported(q, _DTYPES, "bfloat16 or float16", HEAD_DIMS, "be 32, 64, 96 or 128")
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


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: float,
    beta: float,
    delta: float,
    scale: float,
    num_template: int,
    template_token: int,
    rows: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """out [B, H, N, D] (stored as [B, N, H, D]), scores float32 [B, N - num_template] ([B, 0] if template_token < 0), lse float32 [B, H, N].

    rows: queries per thread block, 32, 48, 64 or 80 (80 up to D = 64); 0 lets the launcher choose. Inputs as `unsupported` allows them.
    """
    batch, heads, tokens, head_dim = q.shape
    out = q.new_empty(batch, tokens, heads, head_dim).transpose(1, 2)
    lse = q.new_empty((batch, heads, tokens), dtype=torch.float32)
    scores = q.new_empty((batch, 0 if template_token < 0 else tokens - num_template), dtype=torch.float32)
    logits = torch.empty_like(lse) if scores.numel() else None
    with torch.cuda.device(q.device):
        _native.library().fda_forward_cuda(
            _DTYPES[q.dtype],
            (batch, heads, tokens, head_dim),
            (alpha, beta, delta, scale),
            q.data_ptr(),
            q.stride()[:3],
            k.data_ptr(),
            k.stride()[:3],
            v.data_ptr(),
            v.stride()[:3],
            out.data_ptr(),
            out.stride()[:3],
            lse.data_ptr(),
            0 if logits is None else logits.data_ptr(),
            0 if logits is None else scores.data_ptr(),
            num_template,
            template_token,
            rows,
            torch.cuda.current_stream().cuda_stream,
        )
    return out, scores, lse
