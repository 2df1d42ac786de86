"""What the networks of all kinds have in common."""

from __future__ import annotations

from torch import nn

from cad.envs.family import Spaces
from cad.models.config import ModelConfig


class SequenceModel(nn.Module):
    """A sequence model that predicts actions.

    Its ``forward`` takes a :class:`~cad.histories.batch.Batch` and returns what the kind's objective
    judges; in roll-outs the kind's memory calls its parts.
    """

    before_burn_in: tuple[str, ...] = ()
    """Parameters that windows with a burn-in have no gradients for."""

    def __init__(self, config: ModelConfig, spaces: Spaces) -> None:
        super().__init__()
        self.config = config
        self.spaces = spaces
