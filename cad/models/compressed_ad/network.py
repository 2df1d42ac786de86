"""CompressedAD: old context is compressed into a few latents, again and again.

Training unrolls the recursion: a window is cut into segments, segment k is decoded after the
latents that the encoder made of segments 0..k-1, and every segment carries loss, so that one pass
trains all depths together and later segments teach the encoder directly.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cad.envs.family import Spaces
from cad.histories.batch import Batch
from cad.models.blocks.decoder import Decoder
from cad.models.blocks.encoder import Encoder
from cad.models.blocks.step_embedding import StepEmbedding
from cad.models.blocks.transformer import initialise
from cad.models.compressed_ad.config import CompressedADConfig
from cad.models.network import SequenceModel


class Compressor(SequenceModel):
    """Step embedding, encoder and first latents: what CompressedAD shares with their pre-training."""

    SHARED = ("embed.", "encoder.", "first_latents")
    """What the names of a pre-training's weights that a model takes over begin with."""

    before_burn_in = ("first_latents",)
    config: CompressedADConfig

    def __init__(self, config: CompressedADConfig, spaces: Spaces) -> None:
        super().__init__(config, spaces)
        self.embed = StepEmbedding(
            spaces, config.n_embd, config.step_embedding == "cell", config.embedding_norm
        )
        self.encoder = Encoder(config, gated=config.latent_update == "gated")
        # What the past looks like before there is one.
        self.first_latents = nn.Parameter(torch.zeros(config.n_latent, config.n_embd))
        self.activation_checkpointing = False

    def run(self, part: nn.Module, *inputs: Tensor) -> Tensor:
        """Call ``part``; with activation checkpointing the backward pass calls it again.

        Nothing inside ``part`` is then kept in memory from one pass to the other (arXiv:1604.06174).
        """
        if self.activation_checkpointing and torch.is_grad_enabled():
            again: Tensor = checkpoint(part, *inputs, use_reentrant=False)
            return again
        out: Tensor = part(*inputs)
        return out

    def initialise_compressor(self) -> None:
        """Draw the weights; called before other parts are added, or after it for all of them."""
        initialise(self, self.config.n_layer)
        initialise(self.encoder, self.config.encoder_n_layer)

    def initial_latents(self, batch: int) -> Tensor:
        """Latents (B, n_latent, n_embd) of an empty past."""
        return self.first_latents.expand(batch, -1, -1)

    def unroll(self, segments: Tensor, latents: Tensor, valid: Tensor | None = None) -> list[Tensor]:
        """``latents``, then those after each of ``segments`` (B, segments, L, n_embd) was compressed.

        ``valid``: :attr:`~cad.histories.batch.Batch.valid`.
        """
        unrolled, padding = [latents], () if valid is None else (valid,)
        for k in range(segments.shape[1]):
            unrolled.append(self.run(self.encoder, unrolled[-1], segments[:, k], *padding))
        return unrolled


class CompressedAD(Compressor):
    """AD after recursively compressed context."""

    def __init__(self, config: CompressedADConfig, spaces: Spaces) -> None:
        super().__init__(config, spaces)
        self.decoder = Decoder(config, spaces.n_actions, config.n_latent)
        self.initialise_compressor()
        if not config.max_compression_depth:
            # Without a compression nothing reaches the encoder; engines must not wait for its gradients.
            self.encoder.requires_grad_(False)

    def forward(self, batch: Batch) -> tuple[Tensor, ...]:
        """Action logits of the segments after the burn-in: blocks of :meth:`decode`."""
        return self.decode(*self.compress(batch))

    def compress(self, batch: Batch) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Compress every segment but the last one.

        Returns the embedded segments after the burn-in that were compressed (B, depths, L, n_embd),
        the last one (B, U, n_embd), and the latents that each of these segments is decoded after.
        """
        embedded = self.embed(batch.steps)
        segments = embedded[:, : -batch.last_length].unflatten(1, (-1, batch.segment_length))
        latents = first = self.initial_latents(segments.shape[0])
        with torch.no_grad():
            for k in range(batch.burn_in):
                compressed = self.encoder(latents, segments[:, k], batch.valid)
                there = None if batch.absent is None else batch.absent <= k
                latents = compressed if there is None else torch.where(there, compressed, latents)
        if batch.absent is not None:  # windows without a burn-in teach the first latents
            latents = torch.where(batch.absent < batch.burn_in, latents, first)
        segments = segments[:, batch.burn_in :]
        return segments, embedded[:, -batch.last_length :], self.unroll(segments, latents, batch.valid)

    def decode(self, compressed: Tensor, last: Tensor, latents: list[Tensor]) -> tuple[Tensor, ...]:
        """Logits (B, segments, T, actions) in blocks of segments of one length.

        One call, whose batch is (B x segments), decodes a block: that is one block for all segments,
        or one for those that were compressed and one for a last segment of another length.  With activation
        checkpointing every segment is a block, so that only one is in memory at a time.
        """
        if self.activation_checkpointing:
            segments = [*compressed.unbind(1), last]
            return tuple(
                self.run(self.decoder, segment, z)[:, None]
                for segment, z in zip(segments, latents, strict=True)
            )
        blocks, stacked = [compressed, last[:, None]], torch.stack(latents, dim=1)
        if compressed.shape[2] == last.shape[1]:
            blocks = [torch.cat(blocks, dim=1)]
        logits, start = [], 0
        for block in filter(Tensor.numel, blocks):
            end = start + block.shape[1]
            decoded = self.decoder(block.flatten(0, 1), stacked[:, start:end].flatten(0, 1))
            logits.append(decoded.view(*block.shape[:3], -1))
            start = end
        return tuple(logits)
