"""Force-directed attention by the compiled CPU kernels."""

from __future__ import annotations

from torch import Tensor

from esat_kernels import _native


def unsupported(q: Tensor) -> str | None:
    """Why these kernels cannot take q, k, v like `q`, or None."""
    reason = _native.unavailable()
    if reason is None and not hasattr(_native.library(), "fda_forward"):
        reason = "the native library was built without the attention kernel"
    return reason


def forward(
    q: Tensor, k: Tensor, v: Tensor, alpha: float, beta: float, delta: float, scale: float, num_template: int, template_token: int
) -> tuple[Tensor, Tensor, Tensor]:
    raise NotImplementedError("attention: the cpu backend is not built")


def backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, alpha: float, beta: float, delta: float, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    raise NotImplementedError("attention: the cpu backend is not built")
