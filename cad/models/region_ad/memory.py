"""RegionAD's memory: its last regions in a key/value cache, and latents.

Each roll-out of a batch closes its regions when it wants to: lengths, positions and caches are its
own.  After a closed region what is kept is encoded anew (its positions have changed, and older
elements are gone), so that the cache is *exact*.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cad.histories.batch import Steps
from cad.models.blocks.transformer import KeyValueCache
from cad.models.region_ad.network import END, START, TRANSITION, RegionAD, RowCache


class RegionMemory:
    """RegionAD's memory; see :class:`cad.models.memory.Memory`.

    A region is closed when the model says ``</compress>``, or when its slot of the window is full.
    Either takes effect before the next step.
    """

    compressions: int | npt.NDArray[np.int64]
    chosen: int | npt.NDArray[np.int64]

    def __init__(self, model: RegionAD, batch: int) -> None:
        config = model.config
        self._model = model
        self._room = config.region_room
        self._cache = RowCache(config, batch, model.decoder.positions.shape[0], like=model.decoder.positions)
        device = model.decoder.positions.device
        # The kept elements: embedded steps (zeros for tokens), types, places in the window.
        self._steps = torch.zeros(batch, config.n_transit, config.n_embd, device=device)
        self._types = torch.zeros(batch, config.n_transit, dtype=torch.int64, device=device)
        self._places = torch.zeros_like(self._types)
        self.latents = model.initial_latents(batch).clone()
        # Elements in each region, oldest first; the open one's number is how many are closed.
        self._lengths = np.zeros((batch, config.n_regions), dtype=np.int64)
        self._open = np.zeros(batch, dtype=np.int64)
        self._rows = torch.arange(batch, device=device)
        self._ends = np.zeros(batch, dtype=bool)
        self._asked = np.zeros(batch, dtype=bool)
        self.compressions = np.zeros(batch, dtype=np.int64)
        self.chosen = np.zeros(batch, dtype=np.int64)
        self._put_token(self._rows, 0, START, 0)
        self._lengths[:, 0] = 1
        self._encode(np.arange(batch))

    @property
    def compressed(self) -> Tensor | None:
        """See :attr:`Memory.compressed`: the latents (B, n_latent, n_embd)."""
        return None if self._model.encoder is None else self.latents

    @compressed.setter
    def compressed(self, value: Tensor) -> None:
        self.latents = value.clone()
        self._encode(np.arange(len(self._open)))

    def observe(self, step: Steps) -> Tensor:
        """See :meth:`Memory.observe`."""
        if self._ends.any():
            self._close(np.flatnonzero(self._ends))
        x = self._model.embed(step)[:, 0]
        at = self._on_device(self._lengths.sum(axis=1))
        place = self._on_device(self._open * self._room + self._open_lengths())
        self._steps[self._rows, at] = x
        self._types[self._rows, at] = TRANSITION
        self._places[self._rows, at] = place
        logits, types = self._model.decoder.append(x, place, self._cache)
        self._lengths[np.arange(len(self._open)), self._open] += 1
        self._asked = (types[:, END] > types[:, TRANSITION]).cpu().numpy()
        self._ends = self._asked | (self._open_lengths() == self._room - 1)
        return logits

    def _open_lengths(self) -> npt.NDArray[np.int64]:
        return self._lengths[np.arange(len(self._open)), self._open]

    def _on_device(self, values: npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(values).to(self._rows.device)

    def _close(self, rows: npt.NDArray[np.int64]) -> None:
        """Close the open regions of ``rows`` and open new ones."""
        # Rows with equal layouts, mostly all of them, are treated together.
        layouts, which = np.unique(self._lengths[rows], axis=0, return_inverse=True)
        for i, layout in enumerate(layouts):
            alike = rows[which.reshape(-1) == i]
            self._close_alike(alike, layout.tolist())
        self._encode(rows)
        self.compressions = self.compressions + self._ends
        self.chosen = self.chosen + (self._ends & self._asked)

    def _close_alike(self, rows: npt.NDArray[np.int64], lengths: list[int]) -> None:
        on_device = self._on_device(rows)
        opened = int(self._open[rows[0]])
        self._put_token(on_device, sum(lengths), END, opened * self._room + lengths[opened])
        lengths[opened] += 1
        if opened == len(lengths) - 1:
            self._drop_oldest(on_device, lengths[0])
            lengths = [*lengths[1:], 0]
        else:
            opened += 1
        self._put_token(on_device, sum(lengths), START, opened * self._room)
        lengths[opened] = 1
        self._lengths[rows], self._open[rows] = lengths, opened

    def _drop_oldest(self, rows: Tensor, length: int) -> None:
        if self._model.encoder is not None:
            # Its steps without the two tokens.
            self.latents[rows] = self._model.encoder(self.latents[rows], self._steps[rows, 1 : length - 1])
        self._steps[rows, :-length] = self._steps[rows, length:]
        self._types[rows, :-length] = self._types[rows, length:]
        self._places[rows, :-length] = self._places[rows, length:] - self._room

    def _put_token(self, rows: Tensor, at: int, kind: int, place: int) -> None:
        self._steps[rows, at] = 0
        self._types[rows, at] = kind
        self._places[rows, at] = place

    def _encode(self, rows: npt.NDArray[np.int64]) -> None:
        """Fill the cache of ``rows`` anew from the elements that they keep."""
        decoder, on_device = self._model.decoder, self._on_device(rows)
        # Shorter rows are padded after their end: nothing before it sees that, and the next steps
        # overwrite it.
        longest = int(self._lengths[rows].sum(axis=1).max())
        latents = self.latents[on_device]
        cache = KeyValueCache(decoder.config, len(rows), decoder.n_latent + longest, latents)
        steps, types, places = (
            part[on_device, :longest] for part in (self._steps, self._types, self._places)
        )
        decoder(steps, types, places.clamp(min=0), latents, cache)
        self._cache.copy_rows(on_device, cache)
        self._cache.set_lengths((decoder.n_latent + self._lengths.sum(axis=1)).tolist())

    @property
    def state_bytes(self) -> int:
        """See :meth:`Memory.state_bytes`."""
        tensors = (self._steps, self._types, self._places, self.latents)
        return self._cache.state_bytes + sum(t[0].numel() * t.element_size() for t in tensors)
