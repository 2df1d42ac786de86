"""Gymnasium faces of the three families; importing :mod:`cad.envs` registers them."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from cad.config.schema import DEFAULT_HORIZON, EnvName
from cad.envs.batched import BatchedEnv
from cad.envs.tasks import TaskFamily

Observation = npt.NDArray[np.int64]


class _GridEnv(gym.Env[Observation, np.int64]):
    """What the three faces share: one environment of the batched core."""

    family_name: ClassVar[EnvName]

    def __init__(self, task_id: int = 0, size: int = 9, horizon: int | None = None) -> None:
        steps = DEFAULT_HORIZON[self.family_name] if horizon is None else horizon
        family = TaskFamily(self.family_name, size, steps, (task_id,))
        self._env = BatchedEnv(family, [task_id])
        self.observation_space = gym.spaces.MultiDiscrete([size, size])
        self.action_space = gym.spaces.Discrete(family.n_actions)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; deterministic, so ``seed`` changes nothing and ``options`` are unused."""
        super().reset(seed=seed, options=options)
        return self._env.reset()[0], {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take one step; ``ValueError`` for an action outside 0..4."""
        if not self.action_space.contains(action):
            raise ValueError(f"action {action!r} is not an integer in 0..{self._env.family.n_actions - 1}")
        observations, rewards, done = self._env.step(np.array([action], dtype=np.int64))
        return observations[0], float(rewards[0]), False, done, {}


class DarkroomEnv(_GridEnv):
    """Find an invisible goal in a dark room, and stay there.

    **Observation** ``MultiDiscrete([size, size])``: row and column, int64.  The goal is not seen.

    **Action** ``Discrete(5)``: 0 row+1, 1 row-1, 2 column+1, 3 column-1, 4 stay; a move off the
    grid leaves that coordinate as it is.

    **Reward** 1 for every step that ends on the goal, else 0.

    **Start** the middle, (4, 4) of a 9 x 9 grid.  **Termination** never.  **Truncation** after
    ``horizon`` steps (20).

    Args:
        task_id: goal, as row x size + column.
        size: rows and columns.
        horizon: steps an episode; default 20.
    """

    family_name = "darkroom"


class DarkroomPermutedEnv(_GridEnv):
    """Reach the far corner of a room where the buttons are mixed up.

    **Observation** ``MultiDiscrete([size, size])``: row and column, int64.

    **Action** ``Discrete(5)``: action ``a`` does what Darkroom's action ``permutation[a]`` does.

    **Reward** 1 for every step that ends in the corner (size-1, size-1), else 0.

    **Start** (0, 0).  **Termination** never.  **Truncation** after ``horizon`` steps (50).

    Args:
        task_id: 0 to 119, index of the permutation of the five actions in lexicographic order.
        size: rows and columns.
        horizon: steps an episode; default 50.
    """

    family_name = "darkroom_permuted"


class DarkKeyToDoorEnv(_GridEnv):
    """Find an invisible key, then an invisible door.

    **Observation** ``MultiDiscrete([size, size])``: row and column, int64.  Neither key nor door
    nor whether the key was found is seen.

    **Action** ``Discrete(5)``: 0 row+1, 1 row-1, 2 column+1, 3 column-1, 4 stay; a move off the
    grid leaves that coordinate as it is.

    **Reward** 1 for the first step that ends on the key; 1 for the first later step that ends on
    the door; else 0.

    **Start** the middle, (4, 4) of a 9 x 9 grid.  **Termination** never.  **Truncation** after
    ``horizon`` steps (50).

    Args:
        task_id: ((key_row x size + key_column) x size + door_row) x size + door_column.
        size: rows and columns.
        horizon: steps an episode; default 50.
    """

    family_name = "dark_key_to_door"


ENTRY_POINTS = {
    "cad/Darkroom-v0": "DarkroomEnv",
    "cad/DarkroomPermuted-v0": "DarkroomPermutedEnv",
    "cad/DarkKeyToDoor-v0": "DarkKeyToDoorEnv",
}


def register_environments() -> None:
    """Make the environments known to ``gymnasium.make``; calling it again changes nothing."""
    for env_id, class_name in ENTRY_POINTS.items():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point=f"{__name__}:{class_name}")
