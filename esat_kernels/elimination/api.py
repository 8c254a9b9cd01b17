"""The public calls of candidate elimination.

backend: "auto" (the C++ kernel for plain CPU tensors that need no gradient, else the reference), "cpu", "triton"
or "reference". Calls of the last two can be held by a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from esat_kernels import _device, _dispatch
from esat_kernels.elimination import native, reference, triton


def select_tokens(scores: Tensor, keep: int, backend: str = "auto") -> Tensor:
    """Positions of the `keep` largest of n scores in each row, ascending; ties go to the lower position, NaN counts as the largest.

    scores float [B, n], 1 <= keep <= n -> int64 [B, keep]. No gradient. ValueError for shapes or keep out of range.
    """
    _check_selection(scores, keep, "select_tokens")
    scores = scores.detach()
    candidates = {
        "cpu": lambda: native.unsupported_scores(scores),
        "triton": lambda: triton.unsupported_scores(scores),
        "reference": lambda: reference.unsupported(scores),
    }
    return _kernel(_dispatch.choose("select_tokens", backend, candidates, _auto(scores))).select_tokens(scores, keep)


def eliminate_tokens(
    scores: Tensor, keep: int, tokens: Tensor, attended: Tensor, num_template: int, backend: str = "auto", places: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Selection and gathering of one layer's elimination together: `select_tokens`, and `gather_tokens` of two tensors.

    scores float [B, n]; tokens [B, num_template + n, C] and attended [B, num_template + n, C'], of any dtypes (the residual stream and what
    attention adds to it) -> kept int64 [B, keep], and both tensors [B, num_template + keep, ...]. Differentiable in tokens and attended.
    places: int64 [B, n], what an earlier elimination kept: then `kept` holds those of them that stay, instead of positions among the n.
    backend: "auto", "triton" (one launch) or "reference". ValueError for shapes or keep out of range, TypeError for dtypes.
    """
    _check_selection(scores, keep, "eliminate_tokens")
    if places is not None and places.dtype != torch.int64:
        raise TypeError(f"eliminate_tokens: places must be int64, got {places.dtype}")
    if places is not None and places.shape != scores.shape:
        raise ValueError(f"eliminate_tokens: places must be {tuple(scores.shape)}, got {tuple(places.shape)}")
    for name, tensor in (("tokens", tokens), ("attended", attended)):
        if tensor.dim() != 3 or tensor.shape[:2] != (scores.shape[0], num_template + scores.shape[1]):
            expected = f"({scores.shape[0]}, {num_template + scores.shape[1]}, C)"
            raise ValueError(f"eliminate_tokens: {name} must be {expected}, got {tuple(tensor.shape)}")
    if num_template < 0:
        raise ValueError(f"eliminate_tokens: num_template must not be negative, got {num_template}")
    scores = scores.detach()
    candidates = {
        "triton": lambda: triton.unsupported_scores(scores) or triton.unsupported_tokens(tokens, attended),
        "reference": lambda: reference.unsupported(scores),
    }
    chosen = _dispatch.choose("eliminate_tokens", backend, candidates, _auto(scores))
    return (triton if chosen == "triton" else reference).eliminate_tokens(scores, keep, tokens, attended, num_template, places)


def gather_tokens(tokens: Tensor, kept: Tensor, num_template: int, backend: str = "auto", out: Tensor | None = None) -> Tensor:
    """The num_template first tokens and the search tokens at `kept`: [B, N, C], int64 [B, n] -> [B, num_template + n, C].

    Differentiable in tokens, unless the result is written into `out`: contiguous, of its shape and dtype, apart from tokens in memory.
    ValueError for shapes, TypeError for dtypes; a position outside [0, N - num_template) is an IndexError (PyTorch's RuntimeError from the
    reference; "triton", which cannot raise, gives zeros).
    """
    _check(tokens, kept, "gather_tokens")
    if not 0 <= num_template <= tokens.shape[1]:
        raise ValueError(f"gather_tokens: num_template must lie in [0, {tokens.shape[1]}], got {num_template}")
    if out is None:
        return _choose(tokens, kept, "gather_tokens", backend).gather_tokens(tokens, kept, num_template)
    _dispatch.check_out("gather_tokens", out, (tokens.shape[0], num_template + kept.shape[1], tokens.shape[2]), tokens)
    if not out.is_contiguous():
        raise ValueError(f"gather_tokens: out must be contiguous, got strides {out.stride()}")
    kernel = _choose(tokens, kept, "gather_tokens", backend, out)
    return (
        native.gather_tokens(tokens, kept, num_template, out)
        if kernel is native
        else out.copy_(kernel.gather_tokens(tokens, kept, num_template))
    )


def plan_elimination(scores: Tensor, kept: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], num_template: int) -> Callable[[], object]:
    """`select_tokens` and `gather_tokens` by the CPU kernels on memory that is given once: each call of the result reads what then lies in
    `scores` and in the first tensor of each pair, and writes `kept` and the second ones.

    It costs calls of the compiled library and nothing else: everything is checked here, and the result keeps all alive. scores float32
    [B, n], kept contiguous int64 [B, keep], pairs [B, num_template + n, C] and contiguous [B, num_template + keep, C] of the same dtype, apart
    in memory. No gradient. ValueError and TypeError as there; NotImplementedError where the kernels cannot run.
    """
    _check_selection(scores, kept.shape[-1], "plan_elimination")
    if kept.dtype != torch.int64 or kept.dim() != 2 or kept.shape[0] != scores.shape[0] or not kept.is_contiguous():
        raise ValueError(f"plan_elimination: kept must be contiguous int64 [{scores.shape[0]}, keep], got {kept.dtype} {tuple(kept.shape)}")
    if num_template < 0:
        raise ValueError(f"plan_elimination: num_template must not be negative, got {num_template}")
    if scores.stride(-1) != 1:
        raise ValueError(f"plan_elimination: scores of a row must be adjacent in memory, got strides {scores.stride()}")
    reasons = [native.unsupported_scores(scores, kept)]
    for tokens, out in pairs:
        _check(tokens, kept, "plan_elimination")
        if tokens.shape[1] != num_template + scores.shape[1]:
            raise ValueError(f"plan_elimination: expected {num_template + scores.shape[1]} tokens, got {tokens.shape[1]}")
        _dispatch.check_out("plan_elimination", out, (tokens.shape[0], num_template + kept.shape[1], tokens.shape[2]), tokens)
        if not out.is_contiguous() or tokens.stride(-1) != 1:
            raise ValueError("plan_elimination: outputs must be contiguous, and the last dimension of inputs adjacent in memory")
        reasons.append(native.unsupported_tokens(tokens, kept, out))
    _dispatch.choose("plan_elimination", "cpu", {"cpu": lambda: next(filter(None, reasons), None)}, auto=())
    return native.plan(scores, kept, pairs, num_template)


def scatter_tokens(tokens: Tensor, kept: Tensor, length: int, backend: str = "auto") -> Tensor:
    """The tokens back at the positions `kept`, which differ, zeros elsewhere: [B, n, C], int64 [B, n] -> [B, length, C].

    Differentiable in tokens. Errors as `gather_tokens`, for positions outside [0, length).
    """
    _check(tokens, kept, "scatter_tokens")
    if tokens.shape[1] != kept.shape[1]:
        raise ValueError(f"scatter_tokens: kept must be {tuple(tokens.shape[:2])}, got {tuple(kept.shape)}")
    if length < tokens.shape[1]:
        raise ValueError(f"scatter_tokens: length must be at least the number of tokens, {tokens.shape[1]}, got {length}")
    return _choose(tokens, kept, "scatter_tokens", backend).scatter_tokens(tokens, kept, length)


def _check_selection(scores: Tensor, keep: int, op: str) -> None:
    if scores.dim() != 2:
        raise ValueError(f"{op}: scores must be [B, n], got {tuple(scores.shape)}")
    if not 1 <= keep <= scores.shape[1]:
        raise ValueError(f"{op}: keep must lie in [1, {scores.shape[1]}], got {keep}")


def _check(tokens: Tensor, kept: Tensor, op: str) -> None:
    if tokens.dim() != 3 or kept.dim() != 2 or tokens.shape[0] != kept.shape[0]:
        raise ValueError(f"{op}: expected tokens [B, N, C] and kept [B, n], got {tuple(tokens.shape)} and {tuple(kept.shape)}")
    if kept.dtype != torch.int64:
        raise TypeError(f"{op}: kept must be int64, got {kept.dtype}")


def _choose(tokens: Tensor, kept: Tensor, op: str, backend: str, *out: Tensor):  # type: ignore[no-untyped-def]
    candidates = {
        "cpu": lambda: native.unsupported_tokens(tokens, kept, *out),
        "triton": lambda: triton.unsupported_tokens(tokens),
        "reference": lambda: reference.unsupported(tokens),
    }
    return _kernel(_dispatch.choose(op, backend, candidates, _auto(tokens)))


def _auto(tensor: Tensor) -> tuple[str, ...]:
    return (*_device.verified_backends(tensor.device), "cpu", "reference")


def _kernel(chosen: str):  # type: ignore[no-untyped-def]
    return {"cpu": native, "triton": triton, "reference": reference}[chosen]
