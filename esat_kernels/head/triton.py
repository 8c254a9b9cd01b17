"""The head by the Triton kernels. Triton is imported at the first call."""

from __future__ import annotations

import torch
from torch import Tensor

from esat_kernels import _triton
from esat_kernels._triton import cdiv, power_of_two
from esat_kernels.head.triton_tiles import LARGEST_LAST, convolution_tiles

FEATURE_ROWS, FEATURE_BLOCK_N, FEATURE_WARPS = 4, 256, 4
MAP_CELLS, MAP_WARPS = 16, 4
LARGEST_DIM = 4096  # channels of a row, which one program holds
LARGEST_CHANNELS = 512


def unsupported_tokens(tokens: Tensor, *others: Tensor) -> str | None:
    """Why the features' kernel cannot take these tensors, or None."""
    reason = _triton.unsupported(tokens, *others)
    if reason is None and tokens.shape[2] > LARGEST_DIM:
        reason = f"tokens must have at most {LARGEST_DIM} channels, got {tokens.shape[2]}"
    return reason


def unsupported_channels(hidden: Tensor, *others: Tensor) -> str | None:
    """Why the maps' kernel cannot take these tensors, or None."""
    reason = _triton.unsupported(hidden, *others)
    if reason is None and hidden.shape[2] > LARGEST_CHANNELS:
        reason = f"there must be at most {LARGEST_CHANNELS} channels, got {hidden.shape[2]}"
    return reason


def unsupported_convolution(x: Tensor, weight: Tensor, bias: Tensor, *last: Tensor) -> str | None:
    """Why the convolution's kernel cannot take these tensors, or None."""
    reason = _triton.unsupported(x, weight, bias, *last)
    if reason is None and last and weight.shape[0] > 3 * LARGEST_LAST:
        reason = f"the last convolution may have at most {LARGEST_LAST} channels a branch, got {weight.shape[0] // 3}"
    return reason


@torch.library.custom_op("esat::head_features", mutates_args=())
def head_features(tokens: Tensor, gain: Tensor, bias: Tensor, eps: float, kept: Tensor | None, length: int, dtype: torch.dtype) -> Tensor:
    """As the reference, in one launch."""
    from esat_kernels.head.triton_kernels import features_kernel

    batch, count, channels = tokens.shape
    out = tokens.new_empty(batch, length, channels, dtype=dtype)
    with _triton.on_device_of(tokens):
        features_kernel[(cdiv(length, FEATURE_ROWS), batch)](
            tokens.contiguous(), gain.contiguous(), bias.contiguous(), None if kept is None else kept.contiguous(), out, count, length, channels,
            eps, ROWS=FEATURE_ROWS, BLOCK_N=FEATURE_BLOCK_N, BLOCK_C=power_of_two(channels), num_warps=FEATURE_WARPS, enable_fp_fusion=True,
        )  # fmt: skip
    return out


@head_features.register_fake
def _(tokens, gain, bias, eps, kept, length, dtype):  # type: ignore[no-untyped-def]
    return tokens.new_empty(tokens.shape[0], length, tokens.shape[2], dtype=dtype)


@torch.library.custom_op("esat::head_maps", mutates_args=())
def head_maps(hidden: Tensor, weight: Tensor, bias: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """As the reference, in one launch."""
    from esat_kernels.head.triton_kernels import maps_kernel

    batch, cells, channels = hidden.shape
    maps = _maps(hidden, weight, bias, side)
    with _triton.on_device_of(hidden):
        maps_kernel[(cdiv(cells, MAP_CELLS), batch)](
            hidden.contiguous(), weight.contiguous(), bias.contiguous(), *maps, cells, channels,
            CELLS=MAP_CELLS, BLOCK_C=power_of_two(channels), num_warps=MAP_WARPS, enable_fp_fusion=True,
        )  # fmt: skip
    return maps


@head_maps.register_fake
def _maps(hidden, weight, bias, side):  # type: ignore[no-untyped-def]
    return tuple(hidden.new_empty(hidden.shape[0], maps, side, side, dtype=torch.float32) for maps in (1, 2, 2))


@torch.library.custom_op("esat::head_convolution", mutates_args=())
def head_convolution(x: Tensor, weight: Tensor, bias: Tensor, groups: int, side: int) -> Tensor:
    """As the reference, in one launch."""
    out = x.new_empty(*x.shape[:2], weight.shape[0])
    _convolve(x, weight, bias, out, groups, side, None, None, (None, None, None))
    return out


@head_convolution.register_fake
def _(x, weight, bias, groups, side):  # type: ignore[no-untyped-def]
    return x.new_empty(*x.shape[:2], weight.shape[0])


@torch.library.custom_op("esat::head_convolution_with_maps", mutates_args=())
def head_convolution_with_maps(
    x: Tensor, weight: Tensor, bias: Tensor, last_weight: Tensor, last_bias: Tensor, side: int
) -> tuple[Tensor, Tensor, Tensor]:
    """As the reference, in one launch."""
    maps = _maps_of_last(x, weight, bias, last_weight, last_bias, side)
    _convolve(x, weight, bias, None, 3, side, last_weight, last_bias, maps)
    return maps


@head_convolution_with_maps.register_fake
def _maps_of_last(x, weight, bias, last_weight, last_bias, side):  # type: ignore[no-untyped-def]
    return tuple(x.new_empty(x.shape[0], maps, side, side, dtype=torch.float32) for maps in (1, 2, 2))


def _convolve(x, weight, bias, out, groups, side, last_weight, last_bias, maps):  # type: ignore[no-untyped-def]
    from esat_kernels.head.triton_kernels import convolution_kernel

    x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
    rows, columns, inner = x.shape[0] * x.shape[1], weight.shape[0] // groups, weight.shape[3]
    tiles = convolution_tiles(rows, columns, groups, inner, x.dtype, _triton.multiprocessors(x.device), whole=out is None)
    last = [None if tensor is None else tensor.contiguous() for tensor in (last_weight, last_bias)]
    with _triton.on_device_of(x):
        convolution_kernel[(cdiv(rows, tiles.block_m), cdiv(columns, tiles.block_n), groups)](
            x, weight, bias, out, *last, *maps, rows, inner, columns,
            GROUPS=groups, SIDE=side, BLOCK_M=tiles.block_m, BLOCK_N=tiles.block_n, BLOCK_K=tiles.block_k, WHOLE_K=inner % tiles.block_k == 0,
            num_warps=tiles.num_warps, num_stages=tiles.num_stages, enable_fp_fusion=True,
        )  # fmt: skip
