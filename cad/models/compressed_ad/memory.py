"""CompressedAD's memory: latents, and the steps since they were made.

The window only grows until it is full (``max_compress_length`` steps); then it is compressed into the
latents and starts afresh, so that the key/value cache is *exact*.  At compression depth 0 there is no
encoder to compress it with: it is forgotten.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cad.histories.batch import Steps
from cad.models.compressed_ad.network import CompressedAD
from cad.models.memory import Counts


class CompressedMemory:
    """CompressedAD's memory: latents, and the steps since they were made."""

    compressions: Counts
    chosen: Counts = 0

    def __init__(self, model: CompressedAD, batch: int) -> None:
        config = model.config
        self._model = model
        self._cache = model.decoder.new_cache(batch)
        length = config.compress_lengths[1]
        self._window = torch.empty(batch, length, config.n_embd, device=self._cache.keys.device)
        self._compresses = config.max_compression_depth > 0
        self._filled = 0
        self.compressions = 0
        self._take(model.initial_latents(batch))

    @property
    def compressed(self) -> Tensor | None:
        """See :attr:`Memory.compressed`: the latents (B, n_latent, n_embd)."""
        return self.latents if self._compresses else None

    @compressed.setter
    def compressed(self, value: Tensor) -> None:
        filled = self._filled
        self._take(value)
        if filled:
            self._filled = filled
            self._model.decoder.extend(self._window[:, :filled], self._cache)

    def _take(self, latents: Tensor) -> None:
        self.latents = latents
        self._filled = 0
        self._cache.length = 0
        self._model.decoder.extend(latents, self._cache)

    def observe(self, step: Steps) -> Tensor:
        """See :meth:`Memory.observe`."""
        if self._filled == self._window.shape[1]:
            if self._compresses:
                self._take(self._model.encoder(self.latents, self._window))
                self.compressions += 1
            else:
                self._take(self.latents)
        x = self._model.embed(step)
        self._window[:, self._filled : self._filled + 1] = x
        self._filled += 1
        return self._model.decoder.extend(x, self._cache)

    @property
    def state_bytes(self) -> int:
        """See :meth:`Memory.state_bytes`."""
        tensors = (self.latents, self._window)
        return self._cache.state_bytes + sum(t[0].numel() * t.element_size() for t in tensors)
