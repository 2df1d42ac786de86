"""What the training loop requires of an engine."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cad.config import LoopConfig
from cad.histories.batch import Batch
from cad.models.objective import Objective


@dataclass(frozen=True)
class Update:
    """What one update reports, without gradient.

    ``gradient_norm`` (scalar) is that of the complete batch's gradient before clipping, equal on all
    ranks; ``columns`` (n_columns,) and ``supervised`` cover this rank's share of the batch.
    """

    gradient_norm: Tensor
    columns: Tensor
    supervised: int


class Engine(Protocol):
    """Holds model and optimiser, and turns batches into new weights.

    All ranks call every method, in the same order.
    """

    def update(self, parts: Sequence[Batch], objective: Objective, factor: float) -> Update:
        """Descend the mean loss over all ranks' ``parts``, at ``factor`` times the peak rates."""

    def collect(self) -> None:
        """Copy the current weights, unsharded and in fp32, into the model that the engine was given."""

    def optimiser_state(self) -> dict[str, Tensor]:
        """The optimiser's unsharded state as ``<parameter>/<moment>``, with the same names in all engines."""

    def load_optimiser_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore what :meth:`optimiser_state` of any engine returned, at any number of ranks.

        The weights are loaded into the model before the engine starts.
        """


def autocast(settings: LoopConfig, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Set the precision of forward passes; weights, gradients and optimiser stay in fp32."""
    if settings.precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def mean_update(norm: Tensor, columns: Sequence[Tensor], supervised: int) -> Update:
    """An update whose columns are the mean over its parts."""
    return Update(
        norm, columns[0] if len(columns) == 1 else torch.stack(list(columns)).mean(dim=0), supervised
    )
