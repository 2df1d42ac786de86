"""The decoder of AD and CompressedAD: [latents | steps] to action logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cad.models.blocks.transformer import (
    Block,
    Blocks,
    KeyValueCache,
    Plain,
    PlainBlock,
    input_norm,
    plain_linear,
    plain_norm,
    prefix_mask,
)
from cad.models.config import TransformerConfig


class Decoder(nn.Module):
    """Causal over the steps of a window that comes after ``n_latent`` latents.

    The latents see each other in both directions and every step sees all of them.
    """

    def __init__(self, config: TransformerConfig, n_actions: int, n_latent: int = 0) -> None:
        super().__init__()
        self.config = config
        self.n_latent = n_latent
        self.positions = nn.Parameter(torch.zeros(n_latent + config.n_transit, config.n_embd))
        self.input_norm = input_norm(config)
        self.blocks = Blocks(config, config.n_layer, self.n_latent)
        self.output_norm = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, n_actions)
        mask = prefix_mask(n_latent, config.n_transit)
        self.register_buffer("mask", mask, persistent=False)
        self.mask: Tensor

    def forward(self, steps: Tensor, latents: Tensor | None = None) -> Tensor:
        """Logits (B, T, actions) of embedded steps (B, T, n_embd) after latents (B, n_latent, n_embd)."""
        T = steps.shape[1]
        x = steps if latents is None else torch.cat([latents, steps], dim=1)
        total = x.shape[1]
        x = self.input_norm(x + self.positions[:total])
        return self._logits(self.blocks(x, self.mask[:total, :total], T))

    def _logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.output_norm(x))
        return logits

    def new_cache(self, batch: int) -> DecoderCache:
        """An empty cache for ``batch`` roll-outs."""
        return DecoderCache(self, batch)

    def extend(self, x: Tensor, cache: DecoderCache) -> Tensor:
        """Append embedded tokens (B, t, n_embd) to the cache; logits (B, actions) of the last one.

        The result is that of :meth:`forward` on the whole sequence so far.  ``t`` above one needs
        an empty cache or latents only, as in :meth:`forward`'s mask.
        """
        if x.shape[1] == 1 and not self.training:
            return cache.step(x[:, 0], cache)
        start, end = cache.length, cache.length + x.shape[1]
        # A single token sees everything that is in the cache: no mask.
        mask = None if end - start == 1 else self.mask[start:end, :end]
        x = self.input_norm(x + self.positions[start:end])
        return self._logits(self.blocks(x, mask, 1, cache))[:, 0]


class PlainDecoder(Plain):
    """A decoder in eval mode, for one position at a time, as :class:`PlainBlock` is a block."""

    def __init__(self, decoder: Decoder) -> None:
        self._positions = decoder.positions
        self._input_norm, self._output_norm = map(plain_norm, (decoder.input_norm, decoder.output_norm))
        self._blocks = [PlainBlock(block) for block in decoder.blocks.layers if isinstance(block, Block)]
        self._head = plain_linear(decoder.head)

    def __call__(self, x: Tensor, cache: KeyValueCache) -> Tensor:
        """A token (B, n_embd) to logits (B, actions); the cache takes it in."""
        x = self._input_norm(x + self._positions[cache.length])
        for layer, block in enumerate(self._blocks):
            x = block(x, cache, layer)
        cache.advance(1)
        return self._head(self._output_norm(x))


class DecoderCache(KeyValueCache):
    """A decoder's cache, with the decoder as single steps call it."""

    def __init__(self, decoder: Decoder, batch: int) -> None:
        super().__init__(decoder.config, batch, decoder.positions.shape[0], decoder.positions)
        self.step = PlainDecoder(decoder)
