"""The public calls of the head: its convolutions and what surrounds them. All can be held by a CUDA graph; they have no gradient on "triton".

backend: "auto", "triton" or "reference".
"""

from __future__ import annotations

import torch
from torch import Tensor

from esat_kernels import _device, _dispatch
from esat_kernels.head import reference, triton

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def head_features(
    tokens: Tensor, gain: Tensor, bias: Tensor, eps: float, kept: Tensor | None, length: int, dtype: torch.dtype, backend: str = "auto"
) -> Tensor:
    """LayerNorm of the tokens that are left, at their places: [B, n, C] -> [B, length, C] of `dtype`, zeros where tokens were eliminated.

    tokens, gain [C], bias [C]: float32. kept: int64 [B, n], the places, which differ and lie in [0, length); None: all are left, n = length.
    ValueError for shapes and devices, TypeError for dtypes.
    """
    if tokens.dim() != 3 or gain.shape != tokens.shape[2:] or bias.shape != tokens.shape[2:]:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (tokens, gain, bias))
        raise ValueError(f"head_features: expected tokens [B, n, C], gain [C] and bias [C], got {shapes}")
    expected = tokens.shape[:2] if kept is not None else (tokens.shape[0], length)
    if (tokens if kept is None else kept).shape[:2] != expected or (kept is not None and kept.dim() != 2) or length < tokens.shape[1]:
        given = "none" if kept is None else tuple(kept.shape)
        raise ValueError(f"head_features: kept must be {tuple(tokens.shape[:2])} for a length of at least that, got {given} and {length}")
    for name, tensor, wanted in (("tokens", tokens, torch.float32), ("gain", gain, torch.float32), ("bias", bias, torch.float32)):
        if tensor.dtype != wanted:
            raise TypeError(f"head_features: {name} must be float32, got {tensor.dtype}")
    if kept is not None and kept.dtype != torch.int64:
        raise TypeError(f"head_features: kept must be int64, got {kept.dtype}")
    if dtype not in _DTYPES:
        raise TypeError(f"head_features: dtype must be float32, bfloat16 or float16, got {dtype}")
    others = (gain, bias) if kept is None else (gain, bias, kept)
    _same_device("head_features", tokens, others)
    candidates = {"triton": lambda: triton.unsupported_tokens(tokens, *others), "reference": reference.unsupported}
    return _kernel("head_features", backend, candidates, tokens).head_features(tokens, gain, bias, eps, kept, length, dtype)


def head_maps(hidden: Tensor, weight: Tensor, bias: Tensor, side: int, backend: str = "auto") -> tuple[Tensor, Tensor, Tensor]:
    """The head's last layer, a 1 x 1 convolution in float32, and what makes maps of it: score [B, 1, F, F], size and offset [B, 2, F, F], float32.

    hidden: float32, bfloat16 or float16 [B, F * F, C], channels of all branches. weight float32 [5, C], bias float32 [5]: rows of the score, the
    offset's x and y, the size's width and height. Score and size become probabilities, kept away from 0 and 1 (public code).
    ValueError for shapes and devices, TypeError for dtypes.
    """
    if hidden.dim() != 3 or hidden.shape[1] != side * side or weight.shape != (5, hidden.shape[2]) or bias.shape != (5,):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (hidden, weight, bias))
        raise ValueError(f"head_maps: expected hidden [B, {side * side}, C], weight [5, C] and bias [5], got {shapes}")
    if hidden.dtype not in _DTYPES or weight.dtype != torch.float32 or bias.dtype != torch.float32:
        dtypes = f"{hidden.dtype}, {weight.dtype}, {bias.dtype}"
        raise TypeError(f"head_maps: hidden must be float32, bfloat16 or float16, weight and bias float32, got {dtypes}")
    _same_device("head_maps", hidden, (weight, bias))
    candidates = {"triton": lambda: triton.unsupported_channels(hidden, weight, bias), "reference": reference.unsupported}
    return _kernel("head_maps", backend, candidates, hidden).head_maps(hidden, weight, bias, side)


def head_convolution(x: Tensor, weight: Tensor, bias: Tensor, groups: int, side: int, backend: str = "auto") -> Tensor:
    """relu(3 x 3 convolution + bias) with zeros around: [B, F * F, C] -> [B, F * F, N], cells row by row.

    weight [N, 3, 3, C / groups] and bias [N], of x's dtype (float32, bfloat16 or float16): each group of outputs reads channels of its own.
    ValueError for shapes and devices, TypeError for dtypes.
    """
    _check_convolution("head_convolution", x, weight, bias, groups, side)
    candidates = {"triton": lambda: triton.unsupported_convolution(x, weight, bias), "reference": reference.unsupported}
    return _kernel("head_convolution", backend, candidates, x).head_convolution(x, weight, bias, groups, side)


def head_convolution_with_maps(
    x: Tensor, weight: Tensor, bias: Tensor, last_weight: Tensor, last_bias: Tensor, side: int, backend: str = "auto"
) -> tuple[Tensor, Tensor, Tensor]:
    """`head_convolution` of the three branches, score, offset and size, and `head_maps` of what it gives.

    last_weight float32 [5, N], zero outside a row's own branch, and last_bias float32 [5]. "triton": at most 64 channels a branch.
    """
    _check_convolution("head_convolution_with_maps", x, weight, bias, reference.BRANCHES, side)
    if last_weight.shape != (5, weight.shape[0]) or last_bias.shape != (5,) or {last_weight.dtype, last_bias.dtype} != {torch.float32}:
        given = f"{tuple(last_weight.shape)} {last_weight.dtype}, {tuple(last_bias.shape)} {last_bias.dtype}"
        raise ValueError(f"head_convolution_with_maps: expected float32 last_weight [5, {weight.shape[0]}] and last_bias [5], got {given}")
    _same_device("head_convolution_with_maps", x, (last_weight, last_bias))
    candidates = {
        "triton": lambda: triton.unsupported_convolution(x, weight, bias, last_weight, last_bias),
        "reference": reference.unsupported,
    }
    chosen = _kernel("head_convolution_with_maps", backend, candidates, x)
    return chosen.head_convolution_with_maps(x, weight, bias, last_weight, last_bias, side)


def _check_convolution(op: str, x: Tensor, weight: Tensor, bias: Tensor, groups: int, side: int) -> None:
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (x, weight, bias))
    if x.dim() != 3 or x.shape[1] != side * side or weight.dim() != 4 or weight.shape[1:3] != (3, 3) or bias.shape != weight.shape[:1]:
        raise ValueError(f"{op}: expected x [B, {side * side}, C], weight [N, 3, 3, K] and bias [N], got {shapes}")
    if groups < 1 or weight.shape[0] % groups or x.shape[2] != groups * weight.shape[3]:
        raise ValueError(f"{op}: {groups} groups must divide N and each read K of C = groups * K channels, got {shapes}")
    if x.dtype not in _DTYPES or {weight.dtype, bias.dtype} != {x.dtype}:
        raise TypeError(f"{op}: x, weight and bias must be float32, bfloat16 or float16 alike, got {x.dtype}, {weight.dtype}, {bias.dtype}")
    _same_device(op, x, (weight, bias))


def _same_device(op: str, first: Tensor, others: tuple[Tensor, ...]) -> None:
    for tensor in others:
        if tensor.device != first.device:
            raise ValueError(f"{op}: all tensors must be on {first.device}, got {tensor.device}")


def _kernel(op, backend, candidates, tensor):  # type: ignore[no-untyped-def]
    chosen = _dispatch.choose(op, backend, candidates, auto=(*_device.verified_backends(tensor.device), "reference"))
    return triton if chosen == "triton" else reference
