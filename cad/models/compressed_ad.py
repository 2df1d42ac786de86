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
from cad.models.transformer import Blocks, initialise, input_norm


class Encoder(nn.Module):
    """[old latents | steps | learned queries] to ``n_latent`` new latents, all seeing all."""

    def __init__(self, config: ModelConfig) -> None:
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


class Compressor(nn.Module):
    """Step embedding, encoder and first latents: what CompressedAD shares with their pre-training."""

    SHARED = ("embed.", "encoder.", "first_latents")
    """What the names of a pre-training's weights that a model takes over begin with."""

    def __init__(self, config: ModelConfig, grid_size: int) -> None:
        super().__init__()
        self.config = config
        self.embed = StepEmbedding(
            grid_size, config.n_embd, config.step_embedding == "cell", config.embedding_norm
        )
        self.encoder = Encoder(config)
        # What the past looks like before there is one.
        self.first_latents = nn.Parameter(torch.zeros(config.n_latent, config.n_embd))

    def initialise_compressor(self) -> None:
        """Draw the weights; called before other parts are added, or after it for all of them."""
        initialise(self, self.config.n_layer)
        initialise(self.encoder, self.config.encoder_n_layer)

    def initial_latents(self, batch: int) -> Tensor:
        """Latents (B, n_latent, n_embd) of an empty past."""
        return self.first_latents.expand(batch, -1, -1)

    def unroll(self, segments: Tensor, latents: Tensor) -> list[Tensor]:
        """``latents``, then those after each of ``segments`` (B, segments, L, n_embd) was folded in."""
        behind = [latents]
        for k in range(segments.shape[1]):
            behind.append(self.encoder(behind[-1], segments[:, k]))
        return behind


class CompressedAD(Compressor):
    """AD behind recursively compressed context."""

    def __init__(self, config: ModelConfig, grid_size: int) -> None:
        super().__init__(config, grid_size)
        self.decoder = Decoder(config, config.n_latent)
        self.initialise_compressor()
        if not config.max_compression_depth:
            # Without a compression nothing reaches the encoder; engines must not wait for its gradients.
            self.encoder.requires_grad_(False)

    def forward(self, batch: Batch) -> tuple[Tensor, ...]:
        """Action logits of the segments behind the burn-in: blocks of :meth:`decode`."""
        return self.decode(*self.compress(batch))

    def compress(self, batch: Batch) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Fold every segment but the last one.

        Returns the embedded segments behind the burn-in that were folded (B, depths, L, n_embd), the
        last one (B, U, n_embd), and the latents behind each of them all.
        """
        embedded = self.embed(batch.steps)
        segments = embedded[:, : -batch.last_length].unflatten(1, (-1, batch.segment_length))
        latents = self.initial_latents(segments.shape[0])
        with torch.no_grad():
            for k in range(batch.burn_in):
                latents = self.encoder(latents, segments[:, k])
        segments = segments[:, batch.burn_in :]
        return segments, embedded[:, -batch.last_length :], self.unroll(segments, latents)

    def decode(self, folded: Tensor, last: Tensor, behind: list[Tensor]) -> tuple[Tensor, ...]:
        """Logits (B, segments, T, actions) in blocks of segments of one length.

        One call, whose batch is (B x segments), decodes a block: that is one block for all segments,
        or one for those that were folded and one for a last segment of another length.
        """
        blocks, latents = [folded, last[:, None]], torch.stack(behind, dim=1)
        if folded.shape[2] == last.shape[1]:
            blocks = [torch.cat(blocks, dim=1)]
        logits, start = [], 0
        for block in filter(Tensor.numel, blocks):
            end = start + block.shape[1]
            decoded = self.decoder(block.flatten(0, 1), latents[:, start:end].flatten(0, 1))
            logits.append(decoded.view(*block.shape[:3], -1))
            start = end
        return tuple(logits)
