"""Data parallel: every rank has the complete model, gradients are averaged (accelerate, torch's DDP)."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Sequence

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn

from cad.config import LoopConfig
from cad.histories.batch import Batch
from cad.models.objective import Objective
from cad.training.engines.protocol import Update, autocast, mean_update
from cad.training.optimiser import Optimiser
from cad.training.ranks import Ranks


class AccelerateEngine:
    """Trains the given model in place, on every rank."""

    def __init__(
        self,
        settings: LoopConfig,
        model: nn.Module,
        ranks: Ranks,
        device: torch.device,
        unused_parameters: bool,
    ) -> None:
        self._settings = settings
        # Otherwise every rank starts as many threads as there are cores.
        os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
        # Precision, clipping and accumulation are done here as in the other engines, not by accelerate.
        self._accelerator = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision="no",
            gradient_accumulation_steps=1,
            kwargs_handlers=[
                DistributedDataParallelKwargs(
                    broadcast_buffers=False, find_unused_parameters=unused_parameters
                )
            ],
        )
        self._device = self._accelerator.device
        model.to(self._device)
        with warnings.catch_warnings():
            # accelerate still uses this deprecated argument of torch.
            warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
            self._model: nn.Module = self._accelerator.prepare_model(model)
        self._optimiser = Optimiser(model, settings)
        self._parameters = list(model.parameters())
        self._distributed = ranks.size > 1

    def update(self, parts: Sequence[Batch], objective: Objective, factor: float) -> Update:
        """See :meth:`~cad.training.engines.protocol.Engine.update`."""
        columns, supervised = [], 0
        for number, part in enumerate(parts, start=1):
            # Gradients are averaged once, with the last part.
            local = self._distributed and number < len(parts)
            with self._accelerator.no_sync(self._model) if local else contextlib.nullcontext():
                with autocast(self._settings, self._device):
                    output = self._model(part)
                outcome = objective(output, part)
                self._accelerator.backward(outcome.loss / len(parts))
            columns.append(outcome.columns)
            supervised += outcome.supervised
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.grad_clip)
        self._optimiser.step(factor)
        return mean_update(norm, columns, supervised)

    def collect(self) -> None:
        """Nothing to do: the model is the one that is trained."""

    def optimiser_state(self) -> dict[str, Tensor]:
        """See :meth:`~cad.training.engines.protocol.Engine.optimiser_state`."""
        return self._optimiser.tensors()

    def load_optimiser_state(self, tensors: dict[str, Tensor]) -> None:
        """See :meth:`~cad.training.engines.protocol.Engine.load_optimiser_state`."""
        self._optimiser.load_tensors(tensors)
