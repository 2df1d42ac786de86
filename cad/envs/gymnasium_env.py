"""Every task family as a Gymnasium environment; importing this module registers them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from cad.envs.batched import BatchedEnv
from cad.envs.registry import FAMILIES

Observation = npt.NDArray[np.int64]


class TaskEnv(gym.Env[Observation, np.int64]):
    """One task of a family.

    Its observations are a ``MultiDiscrete`` of the fields that the family names, its actions a
    ``Discrete``.  What they mean, rewards and the start are in the family's docstring.  An episode
    never terminates; it is truncated after ``horizon`` steps.

    Args:
        family: name of the task family.
        task_id: canonical id of the task.
        render_mode: None; there is nothing to render.
        settings: rules of the family, such as ``size`` and ``horizon``.

    Raises ``ValueError`` for a task id or settings that the family does not have.
    """

    def __init__(self, family: str, task_id: int = 0, *, render_mode: None = None, **settings: Any) -> None:
        self.render_mode = render_mode
        kind = FAMILIES[family]
        # Held-out tasks mean nothing here: one, whatever the family's size.
        config = kind.config_class.model_validate(
            {**settings, "n_tasks": 2, "n_heldout": 1, "n_validation": 0}
        )
        rules = kind(config, (task_id,))
        self._env = BatchedEnv(rules, [task_id])
        self.observation_space = gym.spaces.MultiDiscrete(list(rules.spaces.field_sizes))
        self.action_space = gym.spaces.Discrete(rules.spaces.n_actions)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; ``seed`` decides which fact of the task it needs, ``options`` are unused."""
        super().reset(seed=seed, options=options)
        key = self.np_random.integers(2**64, size=1, dtype=np.uint64)
        self._env = BatchedEnv(self._env.family, self._env.task_ids, key)
        return self._env.reset()[0], {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take one step; ``ValueError`` for an action outside the action space."""
        if not self.action_space.contains(action):
            last = self._env.family.spaces.n_actions - 1
            raise ValueError(f"action {action!r} is not an integer in 0..{last}")
        observations, rewards, done = self._env.step(np.array([action], dtype=np.int64))
        return observations[0], float(rewards[0]), False, done, {}


def register_environments() -> None:
    """Make the environments known to ``gymnasium.make``; calling it again changes nothing."""
    for name, family in FAMILIES.usable().items():
        if family.gymnasium_id is not None and family.gymnasium_id not in gym.registry:
            gym.register(family.gymnasium_id, entry_point=f"{__name__}:TaskEnv", kwargs={"family": name})


register_environments()
