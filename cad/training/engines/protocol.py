"""What the training loop knows of an engine."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cad.config.schema import TrainConfig
from cad.histories.batch import Batch
from cad.training.objective import Objective


@dataclass(frozen=True)
class Update:
    """What one update says, without gradient.

    ``gradient_norm`` (scalar) is that of the whole batch's gradient before clipping, alike on all
    ranks; ``columns`` (n_columns,) and ``supervised`` are of this rank's share.
    """

    gradient_norm: Tensor
    columns: Tensor
    supervised: int


class Engine(Protocol):
    """Model, optimiser and the way from a batch to new weights.

    All ranks call every method, in the same order.
    """

    def update(self, parts: Sequence[Batch], objective: Objective, factor: float) -> Update:
        """Descend the mean loss over all ranks' ``parts``, at ``factor`` times the peak rates."""

    def collect(self) -> None:
        """Put the current weights, whole and in fp32, into the model that the engine was given."""

    def optimiser_state(self) -> dict[str, Tensor]:
        """The optimiser's state, whole, as ``<parameter>/<moment>``; all engines name it alike."""

    def load_optimiser_state(self, tensors: dict[str, Tensor]) -> None:
        """Put back what :meth:`optimiser_state` of any engine, at any number of ranks, returned.

        The weights come with the model: they are loaded into it before the engine is started.
        """


def autocast(settings: TrainConfig, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """The precision of forward passes; weights, gradients and optimiser stay in fp32."""
    if settings.precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def mean_update(norm: Tensor, columns: Sequence[Tensor], supervised: int) -> Update:
    """An update from the columns of each of its parts."""
    return Update(
        norm, columns[0] if len(columns) == 1 else torch.stack(list(columns)).mean(dim=0), supervised
    )
