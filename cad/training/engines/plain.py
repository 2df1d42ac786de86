"""One process, without a wrapper around the model."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cad.config import LoopConfig
from cad.histories.batch import Batch
from cad.models.objective import Objective
from cad.surroundings import private_cache
from cad.training.engines.protocol import Update, autocast, mean_update
from cad.training.optimiser import Optimiser


def clipped_gradients(
    forward: Callable[[Batch], Any],
    parameters: Sequence[nn.Parameter],
    parts: Sequence[Batch],
    objective: Objective,
    settings: LoopConfig,
    device: torch.device,
) -> Update:
    """Give ``parameters`` the clipped gradients of the mean loss over ``parts``; what is reported of them."""
    columns, supervised = [], 0
    for part in parts:
        with autocast(settings, device):
            output = forward(part)
        outcome = objective(output, part)
        (outcome.loss / len(parts)).backward()  # type: ignore[no-untyped-call]
        columns.append(outcome.columns)
        supervised += outcome.supervised
    norm = torch.nn.utils.clip_grad_norm_(parameters, settings.grad_clip)
    return mean_update(norm, columns, supervised)


def _compiled(model: nn.Module, settings: LoopConfig, device: torch.device) -> Callable[[Batch], Any]:
    """The model compiled; on a GPU its passes are CUDA graphs, one a shape of batches.

    Graphs leave gradients in memory that the next pass takes, so that they cannot be accumulated.
    """
    if device.type != "cuda" or settings.gradient_accumulation > 1:
        return torch.compile(model)
    compiled = torch.compile(model, mode="reduce-overhead")

    def forward(batch: Batch) -> Any:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return compiled(batch)

    return forward


class PlainEngine:
    """Trains the given model in place."""

    def __init__(self, settings: LoopConfig, model: nn.Module, device: torch.device) -> None:
        self._settings = settings
        self._device = device
        model.to(device)
        self._parameters = list(model.parameters())
        self._optimiser = Optimiser(model, settings)
        self._forward: Callable[[Batch], Any] = model
        if settings.compile:  # torch's own default is a folder in /tmp that anyone could have made
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(private_cache() / "torchinductor"))
            self._forward = _compiled(model, settings, device)

    def update(self, parts: Sequence[Batch], objective: Objective, factor: float) -> Update:
        """See :meth:`~cad.training.engines.protocol.Engine.update`."""
        update = clipped_gradients(
            self._forward, self._parameters, parts, objective, self._settings, self._device
        )
        self._optimiser.step(factor)
        return update

    def collect(self) -> None:
        """Nothing to do: the model is the one that is trained."""

    def optimiser_state(self) -> dict[str, Tensor]:
        """See :meth:`~cad.training.engines.protocol.Engine.optimiser_state`."""
        return self._optimiser.tensors()

    def load_optimiser_state(self, tensors: dict[str, Tensor]) -> None:
        """See :meth:`~cad.training.engines.protocol.Engine.load_optimiser_state`."""
        self._optimiser.load_tensors(tensors)
