"""CartPole whose pole and push differ from task to task: ``id: poles:Poles-v0``."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.envs.classic_control.cartpole import CartPoleEnv


class Poles(CartPoleEnv):
    """Gymnasium's CartPole; a negative ``force`` swaps the two actions.

    Args:
        length: half of the pole's length, metres.
        masspole: the pole's mass, kilograms.
        force: newtons of a push.
    """

    def __init__(self, length: float = 0.5, masspole: float = 0.1, force: float = 10.0, **more: Any) -> None:
        super().__init__(**more)
        self.length, self.masspole, self.force_mag = length, masspole, force
        self.total_mass = self.masspole + self.masscart
        self.polemass_length = self.masspole * self.length


gym.register("Poles-v0", entry_point="poles:Poles")
