"""CompressedAD: old context is folded into a few latents, again and again.

Training unrolls the recursion: a window is cut into segments, segment k is decoded behind the
latents that the encoder made of segments 0..k-1, and every segment carries loss, so that one pass
trains all depths together and later segments teach the encoder directly.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cad.config.schema import ModelConfig
from cad.histories.batch import Batch
from cad.models.decoder import Decoder
from cad.models.tokens import StepEmbedding
from cad.models.transformer import Blocks, initialise


class Encoder(nn.Module):
    """[old latents | steps | learned queries] to ``n_latent`` new latents, all seeing all."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_latent = config.n_latent
        self.queries = nn.Parameter(torch.zeros(config.n_latent, config.n_embd))
        self.positions = nn.Parameter(torch.zeros(config.n_latent + config.n_transit, config.n_embd))
        self.input_norm = nn.LayerNorm(config.n_embd)
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


class CompressedAD(nn.Module):
    """AD behind recursively compressed context."""

    def __init__(self, config: ModelConfig, grid_size: int) -> None:
        super().__init__()
        self.config = config
        self.n_depths = config.max_compression_depth + 1
        self.embed = StepEmbedding(grid_size, config.n_embd)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config, config.n_latent)
        # What the past looks like before there is one.
        self.first_latents = nn.Parameter(torch.zeros(config.n_latent, config.n_embd))
        initialise(self, config.n_layer)
        initialise(self.encoder, config.encoder_n_layer)

    def forward(self, batch: Batch) -> Tensor:
        """Action logits (B, segments, T, actions) of the segments behind the burn-in."""
        B, L = batch.actions.shape[0], batch.segment_length
        # (B, segments, L, n_embd)
        segments = self.embed(batch.steps).unflatten(1, (-1, L))
        latents = self.initial_latents(B)
        with torch.no_grad():
            for k in range(batch.burn_in):
                latents = self.encoder(latents, segments[:, k])
        segments = segments[:, batch.burn_in :]
        n_segments = segments.shape[1]
        behind = [latents]
        for k in range(n_segments - 1):
            behind.append(self.encoder(behind[-1], segments[:, k]))
        # All segments are decoded in one call: the batch is (B x segments).
        logits: Tensor = self.decoder(segments.flatten(0, 1), torch.stack(behind, dim=1).flatten(0, 1))
        return logits.view(B, n_segments, L, -1)

    def initial_latents(self, batch: int) -> Tensor:
        """Latents (B, n_latent, n_embd) of an empty past."""
        return self.first_latents.expand(batch, -1, -1)
