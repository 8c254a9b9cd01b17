"""Attention of the training network on devices without a fused backward kernel: the repulsion alone, which is plain attention with a key bias.

Softmax does not see what is constant along a row, so with alpha = 0 equations 5-7 leave (scale + 2 beta delta) q.k - beta delta |k|^2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine.config import ModelConfig
from engine.model.backbone import Attention
from engine.model.network import EsatNetwork


def _wide(x: Tensor) -> Tensor:
    """At least float32, as the norms need it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class _Repulsion(torch.autograd.Function):
    """softmax(factor q.k + slope |k|^2) v on [B H, N, D]. Keeps the probabilities: at 320 tokens that is faster than computing them again."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, factor: float, slope: float) -> Tensor:
        norms = _wide(k).square().sum(-1).to(k.dtype)
        probability = torch.softmax(torch.baddbmm(norms.unsqueeze(1), q, k.transpose(1, 2), beta=slope, alpha=factor), -1)
        out = torch.bmm(probability, v)
        ctx.save_for_backward(q, k, v, probability, out)
        ctx.factor, ctx.slope = factor, slope
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, probability, out = ctx.saved_tensors
        dout = grads[0].contiguous()
        dv = torch.bmm(probability.transpose(1, 2), dout)
        row = (dout * out).sum(-1, keepdim=True)  # = rowsum(dP P)
        g = torch.baddbmm(row, dout, v.transpose(1, 2), beta=-1).mul_(probability)
        dq = torch.bmm(g, k).mul_(ctx.factor)
        dk = torch.bmm(g.transpose(1, 2), q).mul_(ctx.factor)
        dk.addcmul_(k, g.sum(1).unsqueeze(-1), value=2 * ctx.slope)
        return dq, dk, dv, None, None


def repulsion_attention(q: Tensor, k: Tensor, v: Tensor, beta: float, delta: float, scale: float | None = None) -> Tensor:
    """softmax(scale q.k - beta delta |q - k|^2) v for q, k, v [B, H, N, D] of one dtype -> [B, H, N, D]. Differentiable."""
    batch, heads, _, head_dim = q.shape
    factor = (head_dim**-0.5 if scale is None else scale) + 2 * beta * delta
    out = _Repulsion.apply(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), factor, -beta * delta)
    return out.unflatten(0, (batch, heads))


class RepulsionAttention(nn.Module):
    """Takes the place, and the parameters under their names, of an `Attention` whose attraction is left out."""

    def __init__(self, attention: Attention):
        super().__init__()
        self.config: ModelConfig = attention.config
        self.qkv = attention.qkv
        self.proj = attention.proj

    def forward(self, x: Tensor, with_scores: bool) -> tuple[Tensor, Tensor | None]:
        """As `Attention.forward`."""
        batch, tokens, dim = x.shape
        config = self.config
        q, k, v = self.qkv(x).view(batch, tokens, 3, config.heads, config.head_dim).permute(2, 0, 3, 1, 4)
        scores = self._scores(q, k) if with_scores else None
        out = repulsion_attention(q, k, v, config.beta, config.force_delta)
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, dim)), scores

    @torch.no_grad()
    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        """The attention of the central template token to each search token, averaged over heads: float32 [B, N - num_template]."""
        config = self.config
        token = config.template_token
        query, keys = q[:, :, token : token + 1].float(), k.float()
        force = config.beta * config.force_delta
        row = (config.head_dim**-0.5 + 2 * force) * (query @ keys.transpose(-1, -2)) - force * keys.square().sum(-1).unsqueeze(-2)
        return torch.softmax(row, -1)[:, :, 0, config.num_template :].mean(1)


def drop_attraction(network: EsatNetwork) -> None:
    """Replace every attention of `network` by its repulsion-only form; parameters and their names stay."""
    for block in network.backbone.blocks:
        if isinstance(block.attn, Attention):
            block.attn = RepulsionAttention(block.attn)
