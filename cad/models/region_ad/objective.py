"""RegionAD's objective: the actions, and when a region ends."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cad.config.training import TrainConfig
from cad.histories.batch import Batch
from cad.models.objective import ActionObjective, Outcome
from cad.models.region_ad.config import RegionADConfig
from cad.models.region_ad.network import END, type_targets

METRICS = ("token_type_loss", "token_type_accuracy", "end_accuracy")


def token_type_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy of the next element's type, and two accuracies; all scalars.

    ``logits`` is (N, elements, 3), ``targets`` (elements,).  The second accuracy is that at the
    elements that ``</compress>`` follows: all others are so many that "transition" everywhere is
    nearly always right.
    """
    logits = logits.float()
    wanted = targets.expand(logits.shape[:2])
    right = (logits.argmax(-1) == wanted).float()
    loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten())
    ends = targets == END
    return loss, right.mean(), (right * ends).sum() / (len(right) * ends.sum())


class RegionObjective:
    """The actions, plus ``token_type_weight`` times the types of the elements that follow."""

    section = "train"
    takes_padding = False

    def __init__(self, config: RegionADConfig, settings: TrainConfig, n_actions: int) -> None:
        self._config = config
        self._weight = settings.token_type_weight
        self._actions = ActionObjective(settings, config.n_depths, n_actions)
        self.n_columns = self._actions.n_columns + len(METRICS)
        layout = (config.n_regions, config.region_room)
        self.judgement: Hashable = (self._actions.judgement, self._weight, layout)

    def __call__(self, output: tuple[Tensor, Tensor], batch: Batch) -> Outcome:
        """See :meth:`~cad.models.objective.Objective.__call__`; takes RegionAD's two logits."""
        logits, type_logits = output
        actions = self._actions(logits, batch)
        targets = type_targets(self._config, batch.segment_length, logits.device)
        types = token_type_loss(type_logits, targets)
        columns = torch.cat([actions.columns, torch.stack(types).detach()])
        loss = actions.loss + self._weight * types[0]
        return Outcome(loss, columns, actions.supervised)

    def predictions(self, windows: int, segments: int, length: int) -> int:
        """Those of the actions."""
        return self._actions.predictions(windows, segments, length)

    def constants(self) -> dict[str, float]:
        """Those of the actions."""
        return self._actions.constants()

    def values(self, means: Sequence[float]) -> dict[str, float]:
        """The actions' metrics (``loss`` is theirs alone), and those of the types."""
        n = self._actions.n_columns
        return self._actions.values(means[:n]) | dict(zip(METRICS, means[n:], strict=True))

    def watch(self, values: dict[str, float], step: int) -> None:
        """That of the actions."""
        self._actions.watch(values, step)
