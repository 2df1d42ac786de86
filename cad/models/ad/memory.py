"""AD's memory: a sliding window in a key/value cache.

A sliding window cannot be cached exactly: deeper keys and values depend on steps that slid out.  So
the window grows until it is full and then drops its oldest ``drop_block`` steps, re-encoding the rest.
Attention sinks, the roll-out's first ``n_sink`` steps, are never dropped (arXiv:2309.17453, section 3.2).  As
there, a step's position is its place in the window, not its place in the roll-out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cad.histories.batch import Steps
from cad.models.ad.network import AD
from cad.models.memory import Counts


class WindowMemory:
    """AD's memory: the last ``n_transit`` steps at most."""

    compressions: Counts = 0
    chosen: Counts = 0

    def __init__(self, model: AD, batch: int) -> None:
        config = model.config
        self._model = model
        self._sinks, self._drop = config.n_sink, config.steps_dropped
        self._cache = model.decoder.new_cache(batch)
        self._window = torch.empty(batch, config.n_transit, config.n_embd, device=self._cache.keys.device)

    @property
    def compressed(self) -> Tensor | None:
        """See :attr:`Memory.compressed`: None, it knows of no other steps than those that it keeps."""
        return None

    @compressed.setter
    def compressed(self, _value: Tensor) -> None:
        raise TypeError("AD compresses nothing that could be replaced")

    def observe(self, step: Steps) -> Tensor:
        """See :meth:`Memory.observe`."""
        x = self._model.embed(step)
        length = self._cache.length
        if length == self._window.shape[1]:
            kept = length - self._drop
            self._window[:, self._sinks : kept] = self._window[:, self._sinks + self._drop :].clone()
            self._window[:, kept : kept + 1] = x
            self._cache.length = 0
            return self._model.decoder.extend(self._window[:, : kept + 1], self._cache)
        self._window[:, length : length + 1] = x
        return self._model.decoder.extend(x, self._cache)

    @property
    def state_bytes(self) -> int:
        """See :meth:`Memory.state_bytes`."""
        return self._cache.state_bytes + self._window[0].numel() * self._window.element_size()
