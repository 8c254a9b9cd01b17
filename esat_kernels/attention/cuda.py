"""Force-directed attention by the compiled CUDA kernel (forward only): addresses, strides and the stream go to libesat_cuda.so."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from esat_kernels import _cuda, _device, _dispatch
from esat_kernels.attention.common import Forces, Scores, address, empty_out, gpu_unsupported

HEAD_DIMS = (32, 64)
HEIGHTS = (32, 48, 64, 80)  # queries that a thread block may take
HOPPER_HEIGHTS = (128, 192)  # that a cluster of two may take with sm_90a's own instructions
MAX_TOKENS = 2048
# A kernel that was named -> its function. sm_80's runs on everything newer too; sm_90a's on compute capability 9.0 alone, with D = 64.
KERNELS = {"sm_80": "esat_fda_forward", "sm_90a": "esat_fda_forward_sm90"}


class Strides(ctypes.Structure):
    """`esat::cuda::Strides` of csrc/attention/attention_cuda.h."""

    _fields_ = [(name, ctypes.c_int64) for name in ("batch", "head", "token")]


class Forward(ctypes.Structure):
    """`esat::cuda::Forward` of csrc/attention/attention_cuda.h, field for field."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("query", "key", "value", "out")),
        *((f"{name}_strides", Strides) for name in ("query", "key", "value", "out")),
        ("key_norms", ctypes.c_void_p),
        ("norm_strides", Strides),
        *((name, ctypes.c_void_p) for name in ("row_logits", "scores")),
        *((name, ctypes.c_int) for name in ("batch", "heads", "tokens", "num_template", "template_token", "make_norms")),
        *((name, ctypes.c_float) for name in Forces._fields),
    ]


def _open() -> tuple[ctypes.CDLL | None, str | None]:
    """The library with the types of what is called here, or why it cannot be used."""
    reason = _cuda.unavailable()
    if reason is not None:
        return None, reason
    library = _cuda.library()
    try:
        size, own = int(library.esat_fda_forward_size()), ctypes.sizeof(Forward)
        for name in KERNELS.values() if size == own else ():
            getattr(library, name).argtypes = [ctypes.POINTER(Forward), ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    except AttributeError as error:
        return None, f"not built: {_cuda.FILE.name} is of other sources ({error}); `make cuda` builds it"
    if size != own:
        return None, f"not built: {_cuda.FILE.name} takes calls of {size} bytes, this package makes calls of {own}; `make cuda` builds it"
    return library, None


# At once: torch.compile traces what follows.
_LIBRARY, _REASON = _open()


def unavailable(device: torch.device | None = None) -> str | None:
    """None if the CUDA kernel can run here (on this device, by default the current one), else why not."""
    return _REASON or _device.cuda_unavailable(device)


def unsupported(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    """Why this kernel cannot take q, k, v, or None."""
    reason = unavailable(q.device if q.device.type == "cuda" else None)
    if reason is not None:
        return reason
    if q.device.type != "cuda":
        return f"the input must be on a CUDA device, got {q.device}"
    reason = gpu_unsupported(q, (torch.bfloat16,), "bfloat16 (triton takes others)", HEAD_DIMS, "be 32 or 64 (triton takes others)")
    if reason is not None:
        return reason
    if q.shape[2] > MAX_TOKENS:
        return f"there may be at most {MAX_TOKENS} tokens (triton takes more), got {q.shape[2]}"
    if torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v)):
        return "it has no backward, use triton"
    if (reason := _dispatch.forward_mode(q, k, v)) is not None:
        return reason
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
    forces: Forces,
    wanted: Scores,
    rows: int = 0,
    key_norms: Tensor | None = None,
    kernel: str = "sm_80",
) -> tuple[Tensor, Tensor]:
    """out [B, H, N, D] (stored as [B, N, H, D]) and the wanted scores.

    kernel: of `KERNELS`. rows: queries per thread block, of `HEIGHTS` or `HOPPER_HEIGHTS`; 0 lets the launcher choose. key_norms: |k|^2 of
    the rounded keys, float32 [B, H, N] of any strides; without them a kernel of their own makes them first. Inputs as `unsupported` allows
    them; sm_90a wants D = 64.
    """
    out, scores = empty_out(q), wanted.empty(q)
    batch, heads, tokens, head_dim = q.shape
    make_norms = key_norms is None and (forces.alpha > 0 or forces.beta > 0)
    norms = q.new_empty((batch, heads, tokens), dtype=torch.float32) if make_norms else key_norms
    logits = q.new_empty((batch, heads, tokens), dtype=torch.float32) if scores.numel() else None
    call = Forward(batch=batch, heads=heads, tokens=tokens, make_norms=make_norms, **wanted._asdict(), **forces._asdict())
    for name, tensor in (("query", q), ("key", k), ("value", v), ("out", out)):
        place, strides = address(tensor)
        setattr(call, name, place)
        setattr(call, f"{name}_strides", Strides(*strides))
    if norms is not None:
        call.key_norms, call.norm_strides = norms.data_ptr(), Strides(*norms.stride())
    if logits is not None:
        call.row_logits, call.scores = logits.data_ptr(), scores.data_ptr()
    with torch.cuda.device(q.device):
        launch(call, head_dim, rows, torch.cuda.current_stream().cuda_stream, kernel)
    return out, scores


def launch(call: Forward, head_dim: int, rows: int, stream: int, kernel: str = "sm_80") -> None:
    """The library's call on the current device. ValueError for what it refuses, RuntimeError for an error of CUDA."""
    if _LIBRARY is None:
        raise NotImplementedError(_REASON)
    _cuda.check(getattr(_LIBRARY, KERNELS[kernel])(ctypes.byref(call), head_dim, rows, stream))
