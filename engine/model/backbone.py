"""The one-stream backbone: template and search tokens go through the same layers, and candidate elimination thins the search tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

import esat_kernels
from engine.config import ModelConfig
from engine.model.token_types import covered


class PatchEmbed(nn.Module):
    """16 x 16 patches as tokens: [B, 3, S, S] -> [B, (S / 16)^2, dim], row by row."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.proj = nn.Conv2d(3, config.dim, config.patch_size, config.patch_size)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head force-directed attention (equations 5-7), with the elimination scores where asked for."""

    def __init__(self, config: ModelConfig, backend: str):
        super().__init__()
        self.config = config
        self.backend = backend
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.proj = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor, with_scores: bool) -> tuple[Tensor, Tensor | None]:
        """x [B, N, dim] -> [B, N, dim] and, if asked, the scores of the search tokens [B, N - num_template]."""
        batch, tokens, dim = x.shape
        config = self.config
        qkv = self.qkv(x).view(batch, tokens, 3, config.heads, config.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [B, H, N, D] each, as views
        scores = None
        if with_scores:
            out, scores = esat_kernels.fda_attention_with_scores(
                q, k, v, config.num_template, config.template_token, **config.forces, backend=self.backend
            )
        else:
            out = esat_kernels.fda_attention(q, k, v, **config.forces, backend=self.backend)
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, dim)), scores


class Mlp(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        hidden = int(config.dim * config.mlp_ratio)
        self.fc1 = nn.Linear(config.dim, hidden)
        self.fc2 = nn.Linear(hidden, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm encoder layer. Elimination, where there is one, sits between attention and MLP (public OSTrack)."""

    def __init__(self, config: ModelConfig, backend: str):
        super().__init__()
        self.num_template = config.num_template
        self.norm1 = nn.LayerNorm(config.dim, eps=1e-6)
        self.attn = Attention(config, backend)
        self.norm2 = nn.LayerNorm(config.dim, eps=1e-6)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor, keep: int | None) -> tuple[Tensor, Tensor | None]:
        """x [B, N, dim]; `keep` search tokens survive (None: all). Returns x and the kept positions [B, keep] among its search tokens."""
        attended, scores = self.attn(self.norm1(x), with_scores=keep is not None)
        x = x + attended
        kept = None
        if keep is not None and scores is not None:
            kept = esat_kernels.select_tokens(scores, keep)
            x = esat_kernels.gather_tokens(x, kept, self.num_template)
        return x + self.mlp(self.norm2(x)), kept


class Backbone(nn.Module):
    """Patch embedding, position embeddings P_z and P_x, the mark of the target's own tokens if configured, `depth` layers, final LayerNorm."""

    def __init__(self, config: ModelConfig, backend: str = "auto"):
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.pos_embed_z = nn.Parameter(torch.zeros(1, config.num_template, config.dim))
        self.pos_embed_x = nn.Parameter(torch.zeros(1, config.num_search, config.dim))
        if config.token_types:
            self.token_type_embed = nn.Parameter(torch.zeros(config.dim))
        self.blocks = nn.ModuleList(Block(config, backend) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)

    def forward(
        self, template: Tensor, search: Tensor, keep_ratio: float | None = None, template_box: Tensor | None = None
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Normalised images [B, 3, S, S] -> template tokens [B, N_z, dim], search tokens [B, N_x, dim] with zeros where eliminated,
        and the search positions [B, n] that survive each elimination, ascending. `keep_ratio` overrides the configured one (warm-up);
        `template_box`: see `engine.model.token_types`."""
        config = self.config
        ratio = config.keep_ratio if keep_ratio is None else keep_ratio
        z = self.patch_embed(template) + self.pos_embed_z
        if config.token_types:
            z = z + covered(config, len(template), template_box).to(z)[..., None] * self.token_type_embed
        x = self.patch_embed(search) + self.pos_embed_x
        tokens = torch.cat([z, x], dim=1)
        survivors: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            keep = None
            if index in config.elimination_layers and ratio < 1:
                keep = math.ceil(ratio * (tokens.shape[1] - config.num_template))
            tokens, kept = block(tokens, keep)
            if kept is not None:
                survivors.append(survivors[-1].gather(1, kept) if survivors else kept)
        tokens = self.norm(tokens)
        z, x = tokens[:, : config.num_template], tokens[:, config.num_template :]
        if survivors:
            x = esat_kernels.scatter_tokens(x, survivors[-1], config.num_search)
        return z, x, survivors
