"""Gymnasium environments of the tests, registered when this module is imported."""

from __future__ import annotations

import gymnasium as gym
import numpy as np


class Everything(gym.Env):
    """Observes and takes a bit of everything; the task is the number that ends the episode."""

    def __init__(self, target: int = 0, fault: str = "", actions: str = "box") -> None:
        self.observation_space = gym.spaces.Dict(
            {
                "a": gym.spaces.Discrete(5, start=2),
                "b": gym.spaces.Tuple(
                    (gym.spaces.MultiDiscrete([3, 4]), gym.spaces.Box(-1, 1, (2,)), gym.spaces.MultiBinary(2))
                ),
            }
        )
        self.action_space = {
            "box": gym.spaces.Box(
                np.array([-1.0, 0.0], dtype=np.float32), np.array([1.0, 4.0], dtype=np.float32)
            ),
            "multi": gym.spaces.MultiDiscrete([2, 3]),
            "discrete": gym.spaces.Discrete(300, start=-7),
            "text": gym.spaces.Text(3),
            "unbounded": gym.spaces.Box(-np.inf, np.inf, (1,)),
        }[actions]
        if fault == "text":
            self.observation_space = gym.spaces.Text(4)
        if fault == "wide":
            self.observation_space = gym.spaces.Discrete(3 + target)
        self.target, self.fault, self.taken = target, fault, []

    def _see(self):
        if self.fault == "wide":
            return 1
        box = np.array([self.value, -0.5], dtype=np.float32)
        if self.fault == "nan" and len(self.taken) == 2:
            box[1] = np.nan
        return {"a": 2 + self.cell, "b": (np.array([1, 3]), box, np.array([0, 1], dtype=np.int8))}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.fault == "reset":
            raise KeyError("no map")
        self.options, self.taken = options, []
        self.cell, self.value = int(self.np_random.integers(5)), float(self.np_random.random())
        return self._see(), {}

    def step(self, action):
        self.taken.append(action)
        self.cell = (self.cell + 1) % 5
        reward = float("inf") if self.fault == "infinite" else 0.25 * self.cell
        return self._see(), reward, self.cell == self.target, False, {}


gym.register("test/Everything-v0", entry_point=Everything)
