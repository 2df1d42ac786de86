"""What a roll-out keeps between steps: a window behind a key/value cache, and latents.

The roll-outs of a batch are in lock step (but for :mod:`cad.models.region_memory`).  Memory is
constant: buffers are allocated once.

* CompressedAD: the window only grows until it is full (``max_compress_length`` steps); then it is
  folded into the latents and starts afresh, so that the cache is *exact*.  At compression depth 0
  there is no encoder to fold it with: it is forgotten.
* AD: a sliding window cannot be cached (deeper keys and values depend on steps that slid out).
  Its window grows until it is full and then drops its oldest ``drop_block`` steps, re-encoding
  the rest.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cad.histories.batch import Steps
from cad.models.ad import AD
from cad.models.compressed_ad import CompressedAD
from cad.models.region_ad import RegionAD
from cad.models.region_memory import RegionMemory

Counts = int | npt.NDArray[np.int64]
"""A number a roll-out (B,), or one for all where they are in lock step."""


class Memory(Protocol):
    """In-context state of a batch of roll-outs.

    ``compressions`` counts those so far; ``chosen``, those among them that the model asked for
    itself, where others came about because its window was full.
    """

    compressions: Counts
    chosen: Counts

    def observe(self, step: Steps) -> Tensor:
        """Take in one step (fields (B, 1)); return the logits (B, actions) of its action."""

    @property
    def state_bytes(self) -> int:
        """Bytes kept for one roll-out."""


class WindowMemory:
    """AD's memory: the last ``n_transit`` steps at most."""

    compressions: Counts = 0
    chosen: Counts = 0

    def __init__(self, model: AD, batch: int) -> None:
        config = model.config
        self._model = model
        self._drop = config.steps_dropped
        self._cache = model.decoder.new_cache(batch)
        self._window = torch.empty(batch, config.n_transit, config.n_embd, device=self._cache.keys.device)

    def observe(self, step: Steps) -> Tensor:
        """See :meth:`Memory.observe`."""
        x = self._model.embed(step)
        length = self._cache.length
        if length == self._window.shape[1]:
            kept = length - self._drop
            self._window[:, :kept] = self._window[:, self._drop :].clone()
            self._window[:, kept : kept + 1] = x
            self._cache.length = 0
            return self._model.decoder.extend(self._window[:, : kept + 1], self._cache)
        self._window[:, length : length + 1] = x
        return self._model.decoder.extend(x, self._cache)

    @property
    def state_bytes(self) -> int:
        """See :meth:`Memory.state_bytes`."""
        return self._cache.state_bytes + self._window[0].numel() * self._window.element_size()


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
        self._folds = config.max_compression_depth > 0
        self._filled = 0
        self.compressions = 0
        self._take(model.initial_latents(batch))

    def _take(self, latents: Tensor) -> None:
        self.latents = latents
        self._filled = 0
        self._cache.length = 0
        self._model.decoder.extend(latents, self._cache)

    def observe(self, step: Steps) -> Tensor:
        """See :meth:`Memory.observe`."""
        if self._filled == self._window.shape[1]:
            if self._folds:
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


def new_memory(model: AD | CompressedAD | RegionAD, batch: int) -> Memory:
    """An empty memory for ``batch`` roll-outs of ``model``."""
    if isinstance(model, RegionAD):
        return RegionMemory(model, batch)
    return CompressedMemory(model, batch) if isinstance(model, CompressedAD) else WindowMemory(model, batch)
