"""A task family of your own, to copy: `cad train env.name=ring:Ring` with this folder on PYTHONPATH."""

import numpy as np

from cad.envs.config import EnvConfig
from cad.envs.family import Spaces, TaskFamily


class RingConfig(EnvConfig):
    DEFAULT_HORIZON = 10
    n_places: int = 12  # our own setting: env.n_places=20
    family_size = property(lambda self: self.n_places)


class Ring(TaskFamily[RingConfig]):
    """Find the place of a ring that pays."""

    config_class = RingConfig
    spaces = property(lambda self: Spaces(("place",), (self.config.n_places,), n_actions=3, n_rewards=2))
    start = (0,)

    def goal(self, task_id):  # what distinguishes the task, as whole numbers
        self._check_id(task_id)
        return (task_id,)

    def describe(self, task_id):
        return f"place {task_id}"

    def optimal_return(self, task_id):  # of one episode
        way = max(1, min(task_id, self.config.n_places - task_id))
        return float(max(0, self.horizon + 1 - way))

    def optimal_actions(self, goals, states, hidden, steps_left):  # (n,) in n environments at once
        ahead = (goals[:, 0] - states[:, 0]) % self.config.n_places
        return np.where(ahead == 0, 1, np.where(2 * ahead <= self.config.n_places, 2, 0))

    def transition(self, goals, states, hidden, actions, noise=None):  # next states, rewards, hidden
        # Actions: 0 back, 1 stay, 2 on.
        after = (states + actions[:, None] - 1) % self.config.n_places
        return after, (after[:, 0] == goals[:, 0]).astype(np.float32), hidden
