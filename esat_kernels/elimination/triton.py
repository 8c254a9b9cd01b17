"""Candidate elimination by the Triton kernels. Triton is imported at the first call."""

from __future__ import annotations

import torch
from torch import Tensor

from esat_kernels import _triton
from esat_kernels._triton import cdiv, power_of_two

LARGEST_COUNT = 4096  # one program holds all scores of an item
ROWS, BLOCK_N, BLOCK_C, WARPS = 8, 256, 256, 4
_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)


def eliminate_rows(block: int) -> int:
    """Rows for each program of `eliminate_kernel`: its [rows, block] tables stay in registers."""
    return ROWS if block <= 1024 else 2


def unsupported_scores(scores: Tensor) -> str | None:
    """Why `select_tokens` cannot take these scores, or None."""
    reason = _triton.unsupported(scores)
    if reason is None and scores.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        reason = f"scores must be float32, bfloat16 or float16, got {scores.dtype}"
    if reason is None and scores.shape[1] > LARGEST_COUNT:
        reason = f"there must be at most {LARGEST_COUNT} scores, got {scores.shape[1]}"
    return reason


def unsupported_tokens(*tokens: Tensor) -> str | None:
    """Why rows of these tensors cannot be gathered and scattered, or None."""
    reason = _triton.unsupported(*tokens)
    for tensor in tokens:
        if reason is None and tensor.dtype not in _DTYPES:
            reason = f"tokens must be real numbers, got {tensor.dtype}"
        if reason is None and tensor.shape[0] > 65535:
            reason = f"the batch must be at most 65535, got {tensor.shape[0]}"
    return reason


@torch.library.custom_op("esat::select_tokens", mutates_args=())
def select_tokens(scores: Tensor, keep: int) -> Tensor:
    """As the reference: int64 [B, keep]."""
    from esat_kernels.elimination.triton_kernels import select_kernel

    batch, count = scores.shape
    kept = torch.empty(batch, keep, dtype=torch.int64, device=scores.device)
    with _triton.on_device_of(scores):
        select_kernel[(batch,)](
            scores, kept, *scores.stride(), count, keep, BLOCK=max(16, power_of_two(count)), num_warps=WARPS, enable_fp_fusion=False
        )  # fmt: skip
    return kept


@select_tokens.register_fake
def _(scores, keep):  # type: ignore[no-untyped-def]
    return torch.empty(scores.shape[0], keep, dtype=torch.int64, device=scores.device)


@torch.library.custom_op("esat::eliminate_tokens", mutates_args=())
def eliminate_tokens(
    scores: Tensor, keep: int, tokens: Tensor, attended: Tensor, num_template: int, places: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """As the reference, in one launch."""
    from esat_kernels.elimination.triton_kernels import eliminate_kernel

    batch, count = scores.shape
    kept, out, attended_out = _eliminated(scores, keep, tokens, attended, num_template, places)
    block = max(16, power_of_two(count))
    with _triton.on_device_of(scores):
        eliminate_kernel[(cdiv(num_template + count, eliminate_rows(block)), batch)](
            scores, tokens, attended, None if places is None else places.contiguous(), kept, out, attended_out,
            *scores.stride(), *tokens.stride(), *attended.stride(),
            num_template, count, keep, tokens.shape[2], attended.shape[2],
            BLOCK=block, ROWS=eliminate_rows(block), BLOCK_C=BLOCK_C, num_warps=WARPS, enable_fp_fusion=False,
            **_triton.launch_options(scores.device),
        )  # fmt: skip
    return kept, out, attended_out


@eliminate_tokens.register_fake
def _eliminated(scores, keep, tokens, attended, num_template, places):  # type: ignore[no-untyped-def]
    batch, rows = scores.shape[0], num_template + keep
    kept = torch.empty(batch, keep, dtype=torch.int64, device=scores.device)
    return kept, tokens.new_empty(batch, rows, tokens.shape[2]), attended.new_empty(batch, rows, attended.shape[2])


@torch.library.custom_op("esat::gather_tokens", mutates_args=())
def gather_tokens(tokens: Tensor, kept: Tensor, num_template: int) -> Tensor:
    """As the reference, but a position outside the search tokens gives a row of zeros."""
    from esat_kernels.elimination.triton_kernels import gather_kernel

    batch, rows, columns = tokens.shape
    count = kept.shape[1]
    out = tokens.new_empty(batch, num_template + count, columns)
    if out.numel():
        with _triton.on_device_of(tokens):
            gather_kernel[(cdiv(num_template + count, ROWS), batch)](
                tokens, kept.contiguous(), out, *tokens.stride(), num_template, count, rows - num_template, columns,
                ROWS=ROWS, BLOCK_C=BLOCK_C, num_warps=WARPS, enable_fp_fusion=False,
            )  # fmt: skip
    return out


@gather_tokens.register_fake
def _(tokens, kept, num_template):  # type: ignore[no-untyped-def]
    return tokens.new_empty(tokens.shape[0], num_template + kept.shape[1], tokens.shape[2])


@torch.library.custom_op("esat::scatter_tokens", mutates_args=())
def scatter_tokens(tokens: Tensor, kept: Tensor, length: int) -> Tensor:
    """As the reference, but tokens whose position is outside [0, length) are left out."""
    from esat_kernels.elimination.triton_kernels import scatter_kernel

    batch, count, columns = tokens.shape
    out = tokens.new_empty(batch, length, columns)
    if out.numel():
        with _triton.on_device_of(tokens):
            scatter_kernel[(cdiv(length, ROWS), batch)](
                tokens, kept.contiguous(), out, *tokens.stride(), count, length, columns,
                ROWS=ROWS, BLOCK_N=BLOCK_N, BLOCK_C=BLOCK_C, num_warps=WARPS, enable_fp_fusion=False,
            )  # fmt: skip
    return out


@scatter_tokens.register_fake
def _(tokens, kept, length):  # type: ignore[no-untyped-def]
    return tokens.new_empty(tokens.shape[0], length, tokens.shape[2])
