"""When a roll-out compresses before its window is full: ``evaluation.compress_at``."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from cad.histories.batch import Steps

# In nats: surprises closer than this are equal, or roundings would decide where all are nearly alike.
_ROUNDING = 1e-3


class Moments(Protocol):
    """Says, step by step, where to compress; each roll-out of a batch for itself."""

    def ask(self, step: Steps) -> Tensor:
        """Where (B,) to compress what came before ``step`` (fields (B, 1)); once for each but the first."""

    def take_in(self, logits: Tensor) -> None:
        """Take in the logits (B, actions) of the latest step."""

    def forget(self, rows: Tensor) -> None:
        """The windows of ``rows`` are empty again."""

    @property
    def state_bytes(self) -> int:
        """Bytes kept for one roll-out."""


class EpisodeEnds:
    """At the end of an episode."""

    state_bytes = 0

    def ask(self, step: Steps) -> Tensor:
        """See :meth:`Moments.ask`."""
        return step.first[:, 0] == 1

    def take_in(self, logits: Tensor) -> None:
        """Logits do not matter."""

    def forget(self, rows: Tensor) -> None:
        """Nor does what the window held."""


class Surprises:
    """After an action that the model found unlikely, as EM-LLM ends events (arXiv:2407.09450).

    The surprise of an action is -log of its probability.  One counts that is above the mean by more than
    ``threshold`` standard deviations, both over the steps in the window, its own among them.  The step that
    tells of the action begins the next window.
    """

    def __init__(self, batch: int, n_actions: int, threshold: float, device: torch.device) -> None:
        self._threshold = threshold
        self._logits = torch.zeros(batch, n_actions, device=device)
        # Of the surprises in the window: their number, their sum, that of their squares.
        self._sums = torch.zeros(batch, 3, dtype=torch.float64, device=device)

    def ask(self, step: Steps) -> Tensor:
        """See :meth:`Moments.ask`."""
        # Having taken no action, which a step calls action number n_actions, is no surprise.
        log_probabilities = F.pad(F.log_softmax(self._logits.double(), dim=-1), (0, 1))
        surprise = -log_probabilities.gather(1, step.previous_action)[:, 0]
        self._sums += torch.stack([torch.ones_like(surprise), surprise, surprise.square()], dim=1)
        number, total, squares = self._sums.unbind(1)
        mean = total / number
        deviation = (squares / number - mean.square()).clamp(min=0).sqrt()
        return surprise > mean + self._threshold * deviation + _ROUNDING

    def take_in(self, logits: Tensor) -> None:
        """See :meth:`Moments.take_in`."""
        self._logits = logits

    def forget(self, rows: Tensor) -> None:
        """See :meth:`Moments.forget`."""
        self._sums[rows] = 0

    @property
    def state_bytes(self) -> int:
        """See :meth:`Moments.state_bytes`."""
        return sum(t[0].numel() * t.element_size() for t in (self._logits, self._sums))
