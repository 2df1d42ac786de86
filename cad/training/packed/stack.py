"""Models of one shape, stacked: one forward and backward pass, one step of the optimisers for all."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from cad.histories.batch import Batch, Steps
from cad.training.engines.plain import clipped_gradients
from cad.training.engines.protocol import Update, autocast, mean_update
from cad.training.optimiser import Optimiser, step_together
from cad.training.packed.calls import MaskStreams, StackedCalls, StackedDropout
from cad.training.training import Training


@dataclass(frozen=True)
class _Group:
    """Models of a pack whose batches of an update have one shape, by their numbers."""

    models: list[int]
    weights: list[Tensor]
    """(models, ...) of the group, those that are trained; with gradients after a backward pass."""


class Stack:
    """Trains the models of several trainings, whose shapes are equal, in place.

    The models' parameters become rows of stacked tensors (models, ...), so that each model has its current
    weights at any time.  Where batches of an update differ in shape (kinds that draw the lengths of
    segments), those of one shape are computed together.
    """

    def __init__(self, trainings: Sequence[Training], *, vmapped: bool) -> None:
        """``vmapped`` is False for networks that ``torch.vmap`` cannot run: one after the other."""
        first = trainings[0]
        self._settings, self._device, self._vmapped = first.settings, first.device, vmapped
        self._trainings = list(trainings)
        for training in trainings:
            training.model.to(self._device)
            training.model.train()
        self._optimisers = [Optimiser(training.model, training.settings) for training in trainings]
        self._link()

    def _link(self) -> None:
        """Make stacked tensors, and the models' parameters rows of them."""
        models = [training.model for training in self._trainings]
        self._weights: dict[str, Tensor] = {}
        for name, parameter in models[0].named_parameters():
            own = [model.get_parameter(name) for model in models]
            stacked = torch.stack([p.detach() for p in own]).requires_grad_(parameter.requires_grad)
            self._weights[name] = stacked
            for row, p in zip(stacked.detach(), own, strict=True):
                p.data = row
        stored = [model.state_dict() for model in models]
        self._buffers = {
            name: torch.stack([state[name] for state in stored])
            for name in stored[0]
            if name not in self._weights
        }
        # What is called for all of them: its own weights are never used.
        self._network = copy.deepcopy(models[0])
        self._dropouts = []
        for name, module in models[0].named_modules():
            if isinstance(module, nn.Dropout):
                dropout = StackedDropout([_rate(model.get_submodule(name)) for model in models])
                self._network.set_submodule(name, dropout)
                self._dropouts.append(dropout)

    def keep(self, models: Sequence[int]) -> None:
        """Go on with these of the models; the others take their numbers with them."""
        for number, training in enumerate(self._trainings):
            if models and number not in models:
                # As rows of stacked tensors they would keep those of all models in memory.
                training.sums.tensor = training.sums.tensor.clone()
                for parameter in training.model.parameters():
                    parameter.data = parameter.data.clone()
        self._trainings = [self._trainings[model] for model in models]
        self._optimisers = [self._optimisers[model] for model in models]
        if models:
            self._link()

    def load_optimiser_state(self, model: int, tensors: dict[str, Tensor]) -> None:
        """Restore what :meth:`optimiser_state` returned, here or in a training of its own."""
        self._optimisers[model].load_tensors(tensors)

    def optimiser_state(self, model: int) -> dict[str, Tensor]:
        """The optimiser's state of one model, as every engine names it."""
        return self._optimisers[model].tensors()

    def update(self) -> None:
        """One update of every training, each from its own parts of a batch; they count it."""
        batches = [training.batches() for training in self._trainings]
        for training, own, update in zip(self._trainings, batches, self._updates(batches), strict=True):
            training.add(update, own)

    def _updates(self, batches: Sequence[Sequence[Batch]]) -> list[Update]:
        by_shape: dict[Any, list[int]] = defaultdict(list)
        for model, (part, *_) in enumerate(batches):
            by_shape[_shape(part)].append(model)
        updates: dict[int, Update] = {}
        for models in by_shape.values():
            if len(models) > 1 and self._vmapped:
                self._update_together(models, [batches[model] for model in models], updates)
            else:
                for model in models:
                    training = self._trainings[model]
                    torch.manual_seed(training.mask_seed)
                    updates[model] = clipped_gradients(
                        training.model, list(training.model.parameters()), batches[model],
                        training.objective, training.settings, self._device,
                    )  # fmt: skip
        step_together(self._optimisers, [training.rate_factor for training in self._trainings])
        return [updates[model] for model in range(len(batches))]

    def _update_together(
        self, models: list[int], batches: Sequence[Sequence[Batch]], updates: dict[int, Update]
    ) -> None:
        """Gradients of several models whose batches have one shape."""
        every = len(models) == len(self._trainings)
        weights = {
            name: stacked if every else stacked.detach()[models].requires_grad_(stacked.requires_grad)
            for name, stacked in self._weights.items()
        }
        buffers = self._buffers if every else {name: b[models] for name, b in self._buffers.items()}
        trainings = [self._trainings[model] for model in models]
        streams = MaskStreams([training.mask_seed for training in trainings], self._device)
        for dropout in self._dropouts:
            dropout.models, dropout.streams = models, streams
        columns, counts = [], []
        for parts in zip(*batches, strict=True):
            tensors = [torch.stack(list(same)) for same in zip(*map(tensors_of, parts), strict=True)]
            losses, judged, supervised = self._forward({**weights, **buffers}, trainings, tensors, parts[0])
            (losses.sum() / len(batches[0])).backward()  # type: ignore[no-untyped-call]
            columns.append(judged)
            counts.append(supervised)
        for row, (model, training) in enumerate(zip(models, trainings, strict=True)):
            parameters = list(training.model.parameters())
            for parameter, weight in zip(parameters, weights.values(), strict=True):
                parameter.grad = None if weight.grad is None else weight.grad[row]
            norm = torch.nn.utils.clip_grad_norm_(parameters, training.settings.grad_clip)
            updates[model] = mean_update(
                norm, [judged[row] for judged in columns], sum(supervised[row] for supervised in counts)
            )
        for weight in weights.values():
            weight.grad = None

    def _forward(
        self,
        state: Mapping[str, Tensor],
        trainings: Sequence[Training],
        tensors: Sequence[Tensor],
        like: Batch,
    ) -> tuple[Tensor, Tensor, list[int]]:
        """Losses (models,), with gradient, columns (models, n_columns), and predictions of each model.

        ``tensors`` are those of all batches (:func:`tensors_of`), stacked; lengths are those of ``like``.
        """
        objectives = [training.objective for training in trainings]
        objective = objectives[0]
        alike = all(other.judgement == objective.judgement for other in objectives)
        supervised = 0

        def run(state: Mapping[str, Tensor], *tensors: Tensor) -> Any:
            nonlocal supervised
            batch = _batch_of(tensors, like)
            with autocast(self._settings, self._device):
                output = functional_call(self._network, dict(state), (batch,))
            if not alike:
                return output
            outcome = objective(output, batch)
            supervised = outcome.supervised
            return outcome.loss, outcome.columns

        with StackedCalls():
            result = torch.vmap(run)(state, *tensors)
        if alike:
            return *result, [supervised] * len(trainings)
        outcomes = [
            one(
                pytree.tree_map(lambda x, row=row: x[row], result),
                _batch_of([x[row] for x in tensors], like),
            )
            for row, one in enumerate(objectives)
        ]
        losses, columns = (torch.stack([getattr(o, key) for o in outcomes]) for key in ("loss", "columns"))
        return losses, columns, [outcome.supervised for outcome in outcomes]


def _rate(dropout: nn.Module) -> float:
    assert isinstance(dropout, nn.Dropout)
    return dropout.p


def _shape(batch: Batch) -> tuple[Any, ...]:
    """All of a batch that is not in its tensors' values."""
    return batch.actions.shape, batch.segment_length, batch.burn_in, batch.uncompressed_length


def tensors_of(batch: Batch) -> tuple[Tensor, ...]:
    """All tensors of a batch, in a fixed order."""
    steps = batch.steps
    padding = tuple(x for x in (batch.valid, batch.absent) if x is not None)
    taken = steps.observation, steps.previous_action, steps.previous_reward, steps.first, batch.actions
    return *taken, *padding


def _batch_of(tensors: Sequence[Tensor], like: Batch) -> Batch:
    """The batch of :func:`tensors_of`, with the lengths of another one."""
    *steps, actions = tensors[:5]
    padding = iter(tensors[5:])
    valid, absent = (None if x is None else next(padding) for x in (like.valid, like.absent))
    return Batch(
        Steps(*steps), actions, like.segment_length, like.burn_in, like.uncompressed_length, valid, absent
    )
