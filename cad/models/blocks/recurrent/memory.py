"""The memory of a recurrent model: the states of its layers, zero before the first step, never reset."""

from __future__ import annotations

import torch
from torch import Tensor

from cad.histories.batch import Steps
from cad.models.blocks.recurrent.network import RecurrentModel
from cad.models.memory import Counts


class RecurrentMemory:
    """The states of all layers."""

    compressions: Counts = 0
    chosen: Counts = 0

    def __init__(self, model: RecurrentModel, batch: int) -> None:
        self._model = model
        self._states = model.decoder.new_states(batch)

    @property
    def compressed(self) -> Tensor | None:
        """See :attr:`Memory.compressed`: the states (B, layers, ...)."""
        return torch.stack(list(self._states), dim=1)

    @compressed.setter
    def compressed(self, value: Tensor) -> None:
        self._states = list(value.unbind(dim=1))

    def observe(self, step: Steps) -> Tensor:
        """See :meth:`Memory.observe`."""
        logits: Tensor
        logits, self._states = self._model.decoder(self._model.embed(step), self._states)
        return logits[:, 0]

    @property
    def state_bytes(self) -> int:
        """See :meth:`Memory.state_bytes`."""
        return sum(state[0].numel() * state.element_size() for state in self._states)
