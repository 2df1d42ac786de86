"""A task family of floats: a point on a line, whose distance to a goal is the cost (tests only)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from cad.envs.config import EnvConfig
from cad.envs.family import Spaces, TaskFamily

NAME = "float_line:FloatLine"


class FloatLineConfig(EnvConfig):
    """Go to the goal."""

    DEFAULT_HORIZON: ClassVar[int] = 6
    n_places: int = 8
    known: bool = True
    base: float = -20.0

    @property
    def family_size(self) -> int:
        return self.n_places


class FloatLine(TaskFamily[FloatLineConfig]):
    """Go to the goal, ``task id`` quarters away."""

    config_class = FloatLineConfig
    spaces = Spaces((), (), 3, 0, ("x",))
    start = (0,)

    @property
    def has_optimum(self) -> bool:
        return self.config.known

    @property
    def random_return(self) -> float:
        return self.config.base

    def begin(self, goals, facts):  # noqa: ARG002
        return np.zeros((len(facts), 1), dtype=np.float32), np.zeros(len(facts), dtype=np.int64)

    def goal(self, task_id):
        self._check_id(task_id)
        return (task_id,)

    def describe(self, task_id):
        return f"goal at {task_id / 4}"

    def optimal_return(self, task_id):
        if not self.config.known:
            return 1.0
        return sum(min(0, step + 1 - task_id) / 4 for step in range(self.horizon))

    def optimal_actions(self, goals, states, hidden, steps_left):  # noqa: ARG002
        return (np.sign(goals[:, 0] / 4 - states[:, 0]) + 1).astype(np.int64)

    def transition(self, goals, states, hidden, actions, noise=None):  # noqa: ARG002
        after = (states + 0.25 * (actions[:, None] - 1)).astype(np.float32)
        return after, -np.abs(after[:, 0] - goals[:, 0] / 4).astype(np.float32), hidden
