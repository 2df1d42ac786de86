"""What a training minimises and reports: the protocol, and the objective of action training."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from cad.config.training import LoopConfig, TrainConfig
from cad.errors import CadError
from cad.histories.batch import Batch


@dataclass(frozen=True)
class Outcome:
    """What an objective says of one update.

    ``loss`` is minimised; ``columns`` (n_columns,) are averaged into the metrics, without gradient.
    ``supervised`` counts the predictions that the loss is made of.
    """

    loss: Tensor
    columns: Tensor
    supervised: int


class Objective(Protocol):
    """What a training minimises and what its metrics are: the one difference between trainings."""

    section: str
    """The config's section that messages point at."""
    n_columns: int
    judgement: Hashable
    """All that :meth:`__call__` goes by: objectives of one class for which it is equal judge alike."""
    takes_padding: bool
    """Whether batches may have steps that are not there (:attr:`~cad.histories.batch.Batch.valid`)."""

    def __call__(self, output: Any, batch: Batch) -> Outcome:
        """Judge the model's output for a batch."""

    def predictions(self, windows: int, segments: int, length: int) -> int:
        """How many the loss is made of, for windows of so many segments of one length."""

    def constants(self) -> dict[str, float]:
        """What the first metrics line holds, once."""

    def values(self, means: Sequence[float]) -> dict[str, float]:
        """Metrics, ``loss`` among them, from the columns' means since the last metrics line."""

    def watch(self, values: dict[str, float], step: int) -> None:
        """Raise :class:`CadError` where the training cannot succeed; the message says what to try."""


def action_loss(
    blocks: Sequence[Tensor], batch: Batch, settings: TrainConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy of every action of every segment (of its last one with ``loss_on: last``).

    ``blocks`` are logits (B, segments, T, actions), together of all segments after the burn-in.
    Returns the weighted loss to minimise (scalar, label smoothing included), and the mean
    cross-entropy and accuracy of each segment (segments,), without gradient and without smoothing.
    """
    taken = batch.actions[:, batch.burn_in * batch.segment_length :]
    judged, start = [], 0
    for logits in blocks:
        end = start + logits.shape[1] * logits.shape[2]
        actions = taken[:, start:end].view(logits.shape[:3])
        judged.append(_judge_segments(logits.float(), actions, settings, batch.valid))
        start = end
    smoothed, by_segment, accuracy = (torch.cat(parts) for parts in zip(*judged, strict=True))
    weights = constant(tuple(depth_weights(settings, len(smoothed))), smoothed.dtype, smoothed.device)
    return (smoothed * weights).sum(), by_segment, accuracy


@cache
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of these values, copied to the device once: a CUDA graph cannot hold the copy.

    None is ever given up: a graph may read it as long as the process lasts.
    """
    return torch.tensor(values, dtype=dtype, device=device)


def _judge_segments(
    logits: Tensor, actions: Tensor, settings: TrainConfig, valid: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Smoothed cross-entropy, cross-entropy and accuracy, each (segments,), of segments of one length."""
    if valid is not None:
        return _judge_padded(logits, actions, settings, valid)
    if settings.loss_on == "last":
        logits, actions = logits[:, :, -1:], actions[:, :, -1:]
    log_probabilities = F.log_softmax(logits, dim=-1)
    by_segment = -log_probabilities.gather(-1, actions[..., None]).mean(dim=(0, 2, 3))
    smoothing = settings.label_smoothing
    smoothed = (1 - smoothing) * by_segment
    if smoothing:
        smoothed = smoothed - smoothing * log_probabilities.mean(dim=(0, 2, 3))
    with torch.no_grad():
        accuracy = (logits.argmax(-1) == actions).float().mean(dim=(0, 2))
    return smoothed, by_segment.detach(), accuracy


def _judge_padded(
    logits: Tensor, actions: Tensor, settings: TrainConfig, valid: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`_judge_segments` of those steps (T,) that are ``valid``."""
    counts, steps = valid.sum(), valid.cumsum(0)
    judged = valid & (steps == counts) if settings.loss_on == "last" else valid
    weights = judged / judged.sum()

    def mean(values: Tensor) -> Tensor:
        """Of (B, segments, T): (segments,)."""
        return (values * weights).sum(dim=2).mean(dim=0)

    log_probabilities = F.log_softmax(logits, dim=-1)
    by_segment = mean(-log_probabilities.gather(-1, actions[..., None])[..., 0])
    smoothing = settings.label_smoothing
    smoothed = (1 - smoothing) * by_segment
    if smoothing:
        smoothed = smoothed - smoothing * mean(log_probabilities.mean(dim=-1))
    with torch.no_grad():
        accuracy = mean((logits.argmax(-1) == actions).float())
    return smoothed, by_segment.detach(), accuracy


def depth_weights(settings: TrainConfig, segments: int) -> list[float]:
    """Share of each of the first ``segments`` segments in the loss; they sum to one."""
    weights = (settings.depth_weights or (1.0,) * segments)[:segments]
    return [weight / sum(weights) for weight in weights]


class ActionObjective:
    """Every position of every segment predicts its action."""

    section = "train"
    takes_padding = True

    def __init__(self, settings: TrainConfig, n_depths: int, n_actions: int) -> None:
        """``n_depths``: segments that the model decodes, each reported by itself."""
        self._settings = settings
        self._depths = n_depths
        self._weights = depth_weights(settings, n_depths)
        self._chance = math.log(n_actions)
        self._n_actions = n_actions
        self._grows = settings.depth_curriculum > 0
        self.n_columns = (3 if self._grows else 2) * self._depths
        loss = (settings.loss_on, settings.label_smoothing, settings.depth_weights)
        self.judgement: Hashable = (*loss, self._depths, self._grows)

    def __call__(self, output: Tensor | tuple[Tensor, ...], batch: Batch) -> Outcome:
        """See :meth:`Objective.__call__`; the columns are loss, then accuracy, of each depth.

        With a depth curriculum zeros stand for the depths that the batch does not have, and further columns
        say which it has.  ``output`` is logits (B, segments, T, actions), or blocks of them with a T each.
        """
        blocks = (output,) if isinstance(output, Tensor) else output
        loss, by_depth, accuracy = action_loss(blocks, batch, self._settings)
        supervised = sum(self.predictions(*block.shape[:3]) for block in blocks)
        columns = [by_depth, accuracy]
        if self._grows:
            missing = (0, self._depths - len(by_depth))
            columns = [F.pad(column, missing) for column in (*columns, torch.ones_like(by_depth))]
        return Outcome(loss, torch.cat(columns), supervised)

    def predictions(self, windows: int, segments: int, length: int) -> int:
        """See :meth:`Objective.predictions`."""
        return windows * segments * (length if self._settings.loss_on == "all" else 1)

    def constants(self) -> dict[str, float]:
        """Every window is decoded at every depth; only the weights can differ.

        A depth curriculum's windows begin at depth 0 and end anywhere: it has no constant shares.
        """
        shares = {f"sample_share_depth_{k}": 1 / self._depths for k in range(self._depths)}
        weights = {f"loss_weight_depth_{k}": weight for k, weight in enumerate(self._weights)}
        return weights if self._grows else shares | weights

    def values(self, means: Sequence[float]) -> dict[str, float]:
        """Loss (weighted) and accuracy, over all depths and by depth; without depths that were not seen."""
        losses, accuracies = means[: self._depths], means[self._depths : 2 * self._depths]
        weights = self._weights
        if self._grows:
            # Of updates that had the depth.  Depths are seen in their order: those missing are at the end.
            had = [share for share in means[2 * self._depths :] if share > 0]
            losses, accuracies = ([m / s for m, s in zip(x, had)] for x in (losses, accuracies))  # noqa: B905
            weights = [weight / sum(weights[: len(had)]) for weight in weights[: len(had)]]
        return {
            "loss": sum(w * loss for w, loss in zip(weights, losses, strict=True)),
            "accuracy": sum(accuracies) / len(accuracies),
            **{f"loss_depth_{k}": loss for k, loss in enumerate(losses)},
            **{f"accuracy_depth_{k}": accuracy for k, accuracy in enumerate(accuracies)},
        }

    def watch(self, values: dict[str, float], step: int) -> None:
        """A loss that does not leave chance level will not."""
        settings, loss, chance = self._settings, values["loss"], self._chance
        share = settings.watchdog_share
        if share is not None and step >= share * settings.n_updates and loss > 0.97 * chance:
            raise CadError(
                f"training does not learn: loss {loss:.3f} after {step} of {settings.n_updates} updates is "
                f"still at chance level (log {self._n_actions} = {chance:.3f}); "
                f"try another {rates_in_words(settings, self.section)}, "
                f"more {self.section}.num_warmup_steps, or look at the histories with `cad histories plot`; "
                f"{self.section}.watchdog_share: null trains to the end all the same"
            )


def rates_in_words(settings: LoopConfig, section: str) -> str:
    """The learning rates in effect, by their keys, for messages."""
    rates = f"{section}.learning_rate (now {settings.learning_rate:g})"
    if settings.optimizer == "muon":
        rates += f" and {section}.muon_learning_rate (now {settings.muon_learning_rate:g})"
    return rates
