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
            "whole": gym.spaces.Box(np.array([0, 7]), np.array([3, 7]), dtype=np.int64),
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


class Odd(gym.Env):
    """Observes one of four numbers; something is wrong with it from the third step on, or from the start."""

    def __init__(self, task=0, fault="", bound=1.0) -> None:  # noqa: ARG002
        self.observation_space = gym.spaces.Discrete(4)
        self.action_space = gym.spaces.Discrete(2)
        if fault == "huge":
            self.observation_space = gym.spaces.Box(-1, 1, (2,), np.float64)
        if fault == "bounds":
            self.observation_space = gym.spaces.Dict({"x": gym.spaces.Box(-bound, bound, (1,))})
        if fault == "actions":
            self.action_space = gym.spaces.Box(-bound, bound, (1,))
        self.fault, self.steps = fault, 0

    def _see(self):
        late = self.steps > 2
        return {
            "above": 7 * late, "below": -late, "between": 0.5, "wide": [0, 1] if late else 0, "text": "here",
            "huge": np.array([0, 1e300 * late]), "bounds": {"x": np.zeros(1)},
        }.get(self.fault, 0)  # fmt: skip

    def reset(self, *, seed=None, options=None):  # noqa: ARG002
        if self.fault == "reset raises":
            raise ValueError("not today\nnor tomorrow")
        return self._see() if self.fault == "reset" else (self._see(), {})

    def step(self, action):  # noqa: ARG002
        self.steps += 1
        if self.fault == "raises" and self.steps > 2:
            raise RuntimeError("broken")
        if self.fault == "exits":
            raise SystemExit(3)
        if self.fault == "step":
            return self._see(), 0.0, False, {}
        return self._see(), [0.0] if self.fault == "reward" else 0.0, False, False, {}


gym.register("test/Everything-v0", entry_point=Everything)
gym.register("test/Odd-v0", entry_point=Odd)
