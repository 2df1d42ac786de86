"""The encoder that compresses steps into latents, again and again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cad.models.blocks.transformer import Blocks, input_norm
from cad.models.config import LatentModelConfig


class Encoder(nn.Module):
    """[old latents | steps | learned queries] to ``n_latent`` new latents, all seeing all."""

    def __init__(self, config: LatentModelConfig) -> None:
        super().__init__()
        self.n_latent = config.n_latent
        self.queries = nn.Parameter(torch.zeros(config.n_latent, config.n_embd))
        self.positions = nn.Parameter(torch.zeros(config.n_latent + config.n_transit, config.n_embd))
        self.input_norm = input_norm(config)
        self.blocks = Blocks(config, config.encoder_n_layer)
        self.output_norm = nn.LayerNorm(config.n_embd)

    def forward(self, latents: Tensor, steps: Tensor) -> Tensor:
        """(B, n_latent, n_embd), (B, T, n_embd) to (B, n_latent, n_embd)."""
        context = torch.cat([latents, steps], dim=1)
        context = context + self.positions[: context.shape[1]]
        queries = self.queries.expand(steps.shape[0], -1, -1)
        x = self.input_norm(torch.cat([context, queries], dim=1))
        new: Tensor = self.output_norm(self.blocks(x, None, self.n_latent))
        return new
