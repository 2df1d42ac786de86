"""A task family whose episodes end when they end: a ring with a prize and a hole (tests only)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from cad.envs.config import EnvConfig
from cad.envs.family import Spaces, TaskFamily

NAME = "lake_ring:LakeRing"


class LakeRingConfig(EnvConfig):
    """Find the prize without falling into the hole."""

    DEFAULT_HORIZON: ClassVar[int] = 8
    name: Literal["lake_ring:LakeRing"] = NAME
    n_places: int = 9
    slips: bool = False

    @property
    def family_size(self) -> int:
        return self.n_places - 1


class LakeRing(TaskFamily[LakeRingConfig]):
    """Find the prize without falling into the hole.

    Place ``task id`` + 1 pays 1 and ends the episode; the hole, the middle of the other way, ends it too.
    """

    config_class = LakeRingConfig
    ends_early: ClassVar[bool] = True
    start = (0,)

    @property
    def is_random(self) -> bool:
        return self.config.slips

    @property
    def spaces(self) -> Spaces:
        return Spaces(("place",), (self.config.n_places,), 3, 2)

    def goal(self, task_id):
        self._check_id(task_id)
        prize = task_id + 1
        hole = (prize + self.config.n_places) // 2 if 2 * prize <= self.config.n_places else prize // 2
        return (prize, hole)

    def describe(self, task_id):
        return f"prize at {task_id + 1}"

    def optimal_return(self, task_id):
        return 1.0

    def optimal_actions(self, goals, states, hidden, steps_left):
        return np.where(2 * goals[:, 0] <= self.config.n_places, 2, 0)

    def transition(self, goals, states, hidden, actions, noise=None):
        after = (states + actions[:, None] - 1) % self.config.n_places
        if noise is not None:
            after = np.where(noise[:, None] < 0.2, states, after)
        return after, (after[:, 0] == goals[:, 0]).astype(np.float32), hidden

    def terminates(self, goals, states, hidden):
        return (states == goals).any(axis=1)
