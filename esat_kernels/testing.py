"""What a force-directed attention has to meet: a float64 oracle, inputs that show every term, and an error budget that no one chose by taste.

The yardstick is an ideal kernel of the same precision: inputs rounded to the dtype, scores and softmax in float32, probabilities rounded to
the dtype before the product with v, sums in float32, output rounded. A kernel may have at most twice the yardstick's largest error and 1.1
times its mean error against the oracle on the same rounded inputs; in float32 a few units in the last place more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from esat_kernels.attention.common import Forces

MAX_RATIO, MEAN_RATIO = 2.0, 1.1
ULPS_MAX, ULPS_MEAN = 8.0, 2.0  # float32 only, of the largest and of the mean value


@dataclass(frozen=True)
class Case:
    """q, k, v [B, H, N, D] and the constants of equations 5-7."""

    q: Tensor
    k: Tensor
    v: Tensor
    alpha: float
    beta: float
    delta: float
    scale: float

    @property
    def constants(self) -> dict[str, float]:
        return self.forces._asdict()

    @property
    def forces(self) -> Forces:
        return Forces(self.alpha, self.beta, self.delta, self.scale)


@dataclass(frozen=True)
class Budget:
    """Errors of a result and of the yardstick against the oracle; `ok` says whether the result is within the budget."""

    max_error: float
    mean_error: float
    yardstick_max: float
    yardstick_mean: float
    max_allowed: float
    mean_allowed: float

    @property
    def ok(self) -> bool:
        return self.max_error <= self.max_allowed and self.mean_error <= self.mean_allowed  # False for NaN

    @property
    def excess(self) -> float:
        """How many times the allowed maximum error was made."""
        return self.max_error / self.max_allowed if self.max_allowed else (0.0 if self.max_error == 0 else float("inf"))


def _logits(q: Tensor, k: Tensor, alpha: float, beta: float, delta: float, scale: float) -> Tensor:
    """Equation 5 by explicit differences, in the input's dtype: not the expansion that the kernels use."""
    distance = torch.cdist(q, k, compute_mode="donot_use_mm_for_euclid_dist")
    repulsion = delta * distance * distance
    return scale * (q @ k.transpose(-1, -2)) + alpha * torch.exp(-repulsion) - beta * repulsion


def oracle(case: Case) -> tuple[Tensor, Tensor]:
    """out [B, H, N, D] and lse [B, H, N] in float64 on the inputs as they are (already rounded)."""
    q, k, v = (t.double() for t in (case.q, case.k, case.v))
    logits = _logits(q, k, **case.constants)
    return torch.softmax(logits, -1) @ v, logits.logsumexp(-1)


def oracle_scores(case: Case, num_template: int, template_token: int) -> Tensor:
    """Elimination scores [B, N - num_template] in float64."""
    q, k = case.q.double(), case.k.double()
    row = _logits(q[:, :, template_token : template_token + 1], k, **case.constants)
    return torch.softmax(row, -1)[:, :, 0, num_template:].mean(1)


def oracle_gradients(case: Case, dout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk, dv in float64 by PyTorch's differentiation of the expanded formula (the distance itself has no derivative at 0)."""
    q, k, v = (t.double().detach().requires_grad_() for t in (case.q, case.k, case.v))
    product = q @ k.transpose(-1, -2)
    repulsion = case.delta * ((q * q).sum(-1, keepdim=True) + (k * k).sum(-1).unsqueeze(-2) - 2 * product)
    logits = case.scale * product + case.alpha * torch.exp(-repulsion) - case.beta * repulsion
    out = torch.softmax(logits, -1) @ v
    dq, dk, dv = torch.autograd.grad(out, (q, k, v), dout.double())
    return dq, dk, dv


def _forward32(case: Case) -> tuple[Tensor, Tensor]:
    """Logits and attraction [B, H, N, N] in float32 (float64 for float64 inputs)."""
    wide = torch.promote_types(case.q.dtype, torch.float32)
    q, k = case.q.to(wide), case.k.to(wide)
    product = q @ k.transpose(-1, -2)
    distance = ((q * q).sum(-1, keepdim=True) + (k * k).sum(-1).unsqueeze(-2) - 2 * product).clamp(min=0)
    attraction = torch.exp(-case.delta * distance)
    return case.scale * product + case.alpha * attraction - case.beta * case.delta * distance, attraction


def yardstick(case: Case) -> Tensor:
    """out [B, H, N, D] of the ideal kernel in the case's dtype."""
    probability = torch.softmax(_forward32(case)[0], -1)
    rounded = probability.to(case.v.dtype).to(probability.dtype)
    return (rounded @ case.v.to(probability.dtype)).to(case.v.dtype)


def yardstick_gradients(case: Case, dout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk, dv of the ideal kernel: probabilities from the log-sum-exp, which is one float32; matrix operands rounded to the dtype, everything
    else in float32, results rounded.
    """
    dtype = case.q.dtype
    logits, attraction = _forward32(case)
    wide = logits.dtype
    probability = torch.exp(logits - logits.logsumexp(-1, keepdim=True))
    q, k, v, dout = (t.to(wide) for t in (case.q, case.k, case.v, dout))
    out = yardstick(case).to(wide)
    g = probability * (dout @ v.transpose(-1, -2) - (dout * out).sum(-1, keepdim=True))
    force = g * (case.beta + case.alpha * attraction)
    ds = (case.scale * g + 2 * case.delta * force).to(dtype).to(wide)
    dq = ds @ k - 2 * case.delta * q * force.sum(-1, keepdim=True)
    dk = ds.transpose(-1, -2) @ q - 2 * case.delta * k * force.sum(-2).unsqueeze(-1)
    dv = probability.to(dtype).to(wide).transpose(-1, -2) @ dout
    return dq.to(dtype), dk.to(dtype), dv.to(dtype)


def compare(result: Tensor, ideal: Tensor, exact: Tensor) -> Budget:
    """The errors of `result` and of the yardstick `ideal` against `exact` (float64), all of one shape."""
    if result.shape != exact.shape:
        raise ValueError(f"testing: result must be {tuple(exact.shape)}, got {tuple(result.shape)}")
    error, ideal_error = (result.double() - exact).abs(), (ideal.double() - exact).abs()
    slack_max = slack_mean = 0.0
    if result.dtype == torch.float32:
        ulp = torch.finfo(torch.float32).eps
        slack_max, slack_mean = ULPS_MAX * ulp * float(exact.abs().max()), ULPS_MEAN * ulp * float(exact.abs().mean())
    yard_max, yard_mean = float(ideal_error.max()), float(ideal_error.mean())
    return Budget(
        float(error.max()), float(error.mean()), yard_max, yard_mean, MAX_RATIO * yard_max + slack_max, MEAN_RATIO * yard_mean + slack_mean
    )


def check(case: Case, out: Tensor) -> Budget:
    """Whether `out` [B, H, N, D] is within the error budget for this case."""
    return compare(out, yardstick(case), oracle(case)[0])


def check_gradients(case: Case, dout: Tensor, grads: tuple[Tensor, Tensor, Tensor]) -> dict[str, Budget]:
    """The same for dq, dk, dv."""
    ideal, exact = yardstick_gradients(case, dout), oracle_gradients(case, dout)
    return {name: compare(*three) for name, three in zip(("dq", "dk", "dv"), zip(grads, ideal, exact, strict=True), strict=True)}


def make_case(
    kind: str = "normal",
    batch: int = 1,
    heads: int = 2,
    tokens: int = 64,
    head_dim: int = 64,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    strided: bool = False,
) -> Case:
    """Inputs with fixed random numbers.

    kind: "normal" (unit variance, the paper's constants), "near" (k = permuted q + noise of varying length, alpha = 1, delta = 0.02, where
    every term changes the result), "large" (|q| = |k| = 30), "plain" (alpha = beta = 0).
    strided: q, k, v are slices of one [B, N, 3, H, D] tensor, as the QKV product leaves them.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shape = (batch, heads, tokens, head_dim)
    q, k, v = normal(*shape), normal(*shape), normal(*shape)
    alpha, beta, delta = {"normal": (0.1, 0.1, None), "near": (1.0, 1.0, 0.02), "large": (0.1, 0.1, None), "plain": (0.0, 0.0, None)}[kind]
    if kind == "near":
        stretch = 0.5 + torch.rand(batch, heads, tokens, 1, generator=generator, dtype=torch.float64)
        k = stretch * q[:, :, torch.randperm(tokens, generator=generator)] + 0.1 * k
    elif kind == "large":
        q, k = (30 * t / t.norm(dim=-1, keepdim=True) for t in (q, k))
    q, k, v = (t.to(dtype) for t in (q, k, v))
    if strided:
        q, k, v = torch.stack([t.transpose(1, 2) for t in (q, k, v)], dim=2).unbind(2)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return Case(q, k, v, alpha, beta, head_dim**-0.5 if delta is None else delta, head_dim**-0.5)


def move(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on the device with its strides and with all that its memory holds around it; `to` would close the gaps."""
    memory = tensor.new_empty(0).set_(tensor.untyped_storage())
    return memory.to(device).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
