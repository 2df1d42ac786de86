"""CompressedAD's memory where roll-outs compress before their window is full, each when it is time for it.

Lengths, positions and caches are a roll-out's own.  After a compression a cache holds the new latents
alone, so that it is *exact*, as that of :mod:`cad.models.compressed_ad.memory` is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cad.histories.batch import Steps
from cad.models.compressed_ad.moments import Moments
from cad.models.compressed_ad.network import CompressedAD
from cad.models.memory import Counts


class AdaptiveMemory:
    """CompressedAD's memory; see :class:`cad.models.memory.Memory`.

    A roll-out compresses when ``moments`` ask for it and ``min_compress_length`` steps are in its window,
    or when ``max_compress_length`` are.
    """

    compressions: Counts
    chosen: Counts

    def __init__(self, model: CompressedAD, batch: int, moments: Moments) -> None:
        config, like = model.config, model.decoder.positions
        self._model, self._moments = model, moments
        self._shortest, self._longest = config.compress_lengths
        self._cache = model.decoder.new_row_cache(batch)
        self._window = torch.zeros(batch, self._longest, config.n_embd, device=like.device)
        self._filled = np.zeros(batch, dtype=np.int64)
        self._rows = torch.arange(batch, device=like.device)
        self.compressions = np.zeros(batch, dtype=np.int64)
        self.chosen = np.zeros(batch, dtype=np.int64)
        self.latents = model.initial_latents(batch).clone()
        self._encode(np.arange(batch))

    @property
    def compressed(self) -> Tensor | None:
        """See :attr:`Memory.compressed`: the latents (B, n_latent, n_embd)."""
        return self.latents

    @compressed.setter
    def compressed(self, value: Tensor) -> None:
        self.latents = value.clone()
        self._encode(np.arange(len(self._filled)))

    def observe(self, step: Steps) -> Tensor:
        """See :meth:`Memory.observe`."""
        if self._filled.any():
            self._compress_where_asked(self._moments.ask(step))
        x = self._model.embed(step)[:, 0]
        self._window[self._rows, self._cache.lengths - self.latents.shape[1]] = x
        self._filled += 1
        logits = self._model.decoder.append(x, self._cache)
        self._moments.take_in(logits)
        return logits

    def _compress_where_asked(self, asks: Tensor) -> None:
        long_enough = self._filled >= self._shortest
        if not long_enough.any():
            return  # without waiting for the device
        chosen = long_enough & asks.cpu().numpy()
        now = chosen | (self._filled == self._longest)
        if now.any():
            self._compress(np.flatnonzero(now))
            self.compressions = self.compressions + now
            self.chosen = self.chosen + chosen

    def _compress(self, rows: npt.NDArray[np.int64]) -> None:
        lengths = self._filled[rows]
        for length in np.unique(lengths).tolist():
            alike = self._on_device(rows[lengths == length])
            self.latents[alike] = self._model.encoder(self.latents[alike], self._window[alike, :length])
        self._filled[rows] = 0
        self._encode(rows)
        self._moments.forget(self._on_device(rows))

    def _encode(self, rows: npt.NDArray[np.int64]) -> None:
        """Fill the cache of ``rows`` anew from their latents and windows."""
        # Shorter rows are padded after their end: nothing before it sees that, and the next steps
        # overwrite it.
        on_device, longest = self._on_device(rows), int(self._filled[rows].max())
        cache = self._model.decoder.new_cache(len(rows))
        kept = torch.cat([self.latents[on_device], self._window[on_device, :longest]], dim=1)
        self._model.decoder.extend(kept, cache)
        self._cache.copy_rows(on_device, cache)
        self._cache.set_lengths((self.latents.shape[1] + self._filled).tolist())

    def _on_device(self, rows: npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(rows).to(self._rows.device)

    @property
    def state_bytes(self) -> int:
        """See :meth:`Memory.state_bytes`."""
        tensors = (self.latents, self._window)
        kept = sum(t[0].numel() * t.element_size() for t in tensors)
        return self._cache.state_bytes + kept + self._moments.state_bytes
