"""Triton's interpreter as a GPU computes (3.6 to 3.9): its matrix product multiplies bfloat16's 16-bit patterns, its rounding to bfloat16 truncates
and that to e4m3 loses carries, its fused multiply-add rounds twice, and before 3.9 a scalar is no loop bound where NumPy 2.4 converts no arrays of
one element.
"""

from __future__ import annotations

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


def _widen(handle: TensorHandle) -> np.ndarray:
    if handle.dtype.scalar == tl.float8e4nv:
        return torch.from_numpy(np.ascontiguousarray(handle.data)).view(torch.float8_e4m3fn).float().numpy()
    if handle.dtype.scalar != tl.bfloat16:
        return handle.data
    return (np.ascontiguousarray(handle.data).view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _round_bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 -> the bit patterns of the nearest bfloat16 (ties to even), as the GPU rounds."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16).reshape(values.shape)


def _round_e4m3(values: np.ndarray) -> np.ndarray:
    """float32 -> the bit patterns of the nearest e4m3 (ties to even), the largest beyond it, as the GPU rounds."""
    clamped = torch.from_numpy(np.ascontiguousarray(values)).clamp(-448, 448)  # NaN stays
    return clamped.to(torch.float8_e4m3fn).view(torch.uint8).numpy().reshape(values.shape)


def compute_as_a_gpu() -> None:
    """Patches the interpreter of this process."""
    cast, convert, patch_tensor = InterpreterBuilder.cast_impl, InterpreterBuilder.create_fp_to_fp, interpreter._patch_lang_tensor

    def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):  # type: ignore[no-untyped-def]
        return TensorHandle(np.matmul(_widen(a), _widen(b), dtype=d.data.dtype) + d.data, d.dtype.scalar)

    def cast_impl(self, src, dst_type):  # type: ignore[no-untyped-def]
        if src.dtype.scalar == tl.float32 and dst_type.scalar == tl.bfloat16:
            return TensorHandle(_round_bfloat16(src.data), tl.bfloat16)
        return cast(self, src, dst_type)

    def create_fp_to_fp(self, src, dst_type, rounding_mode):  # type: ignore[no-untyped-def]
        if src.dtype.scalar == tl.float32 and dst_type.scalar == tl.float8e4nv:
            return TensorHandle(_round_e4m3(src.data), tl.float8e4nv)
        return convert(self, src, dst_type, rounding_mode)

    def create_fma(self, x, y, z):  # type: ignore[no-untyped-def]
        exact = x.data.astype(np.float64) * y.data.astype(np.float64) + z.data.astype(np.float64)
        return TensorHandle(exact.astype(z.data.dtype), z.dtype.scalar)

    def patch_lang_tensor(tensor, scope):  # type: ignore[no-untyped-def]
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_lang_tensor
    InterpreterBuilder.create_fp_to_fp = create_fp_to_fp
    InterpreterBuilder.create_fma = create_fma
    InterpreterBuilder.create_dot = create_dot
    InterpreterBuilder.cast_impl = cast_impl
