"""Environments as a roll-out steps them, and the record of their episodes.

Where all episodes end together and tables can be made of the family's transitions, environments step on the
model's device, and nothing is sent within an episode; all others step in NumPy, on the host, and so do those
of which episodes are demonstrated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cad.envs.arrays import BoolArray, FloatArray, IntArray
from cad.envs.family import AnyFamily, Spaces
from cad.envs.noise import Keys
from cad.envs.tabled import TabledEnv, Tables, make_tables
from cad.evaluation.replay import rollout_keys


@dataclass(frozen=True)
class Received:
    """What a model sees of the step that was taken, on its device, (B, 1) each."""

    reward: Tensor
    first: Tensor
    """1 where the next step is the first one of an episode, else 0."""


@dataclass(frozen=True)
class Rollouts:
    """Which B roll-outs there are: ``n_rollouts`` of each task, through ``n_episodes`` episodes."""

    family: AnyFamily
    task_ids: Sequence[int]
    n_rollouts: int
    n_episodes: int
    seed: int
    device: torch.device
    """That of the model."""

    @property
    def tasks(self) -> IntArray:
        """The task id of each (B,)."""
        return np.repeat(np.asarray(self.task_ids), self.n_rollouts)

    @property
    def keys(self) -> Keys:
        """What the chance in each one's environment follows from."""
        return rollout_keys(self.seed, self.task_ids, self.n_rollouts)


class Episodes:
    """The record of B roll-outs, arrays (episodes, B)."""

    def __init__(self, rollouts: Rollouts) -> None:
        n_episodes, B = rollouts.n_episodes, len(rollouts.tasks)
        self.family, self.n_episodes = rollouts.family, n_episodes
        self.lengths = np.zeros((n_episodes, B), dtype=np.int32)
        self.facts = np.zeros((n_episodes, B), dtype=np.int16)
        self.optima = np.zeros((n_episodes, B), dtype=np.float32)
        self.episode: IntArray = np.zeros(B, dtype=np.int64)
        """(B,) the episode that each roll-out is in."""
        self.playing: BoolArray = np.ones(B, dtype=bool)
        """(B,) which roll-outs have episodes to go."""
        self.begun = True
        """Whether an episode begins somewhere with the next step."""
        self.begins: BoolArray = self.playing
        """(B,) where."""
        self.finished = 0
        """Episodes that all roll-outs have finished."""

    def _note_facts(self, goals: IntArray, facts: IntArray) -> None:
        """Record which facts (B,) the episodes that begin need, and their optima."""
        if self.family.n_facts > 1:
            place = self.episode[self.playing], np.flatnonzero(self.playing)
            self.facts[place] = facts[self.playing]
            self.optima[place] = self.family.episode_optimum(goals, facts)[self.playing]


class DeviceStepping(Episodes):
    """Environments in lock step that step on the model's device."""

    def __init__(self, rollouts: Rollouts, tables: Tables) -> None:
        super().__init__(rollouts)
        family, device, B = rollouts.family, rollouts.device, len(rollouts.tasks)
        self._goals = family.goals(rollouts.tasks)
        numbers = np.arange(len(rollouts.task_ids)).repeat(rollouts.n_rollouts)
        self._env = TabledEnv(family, tables, numbers, self._goals, rollouts.keys, device)
        self._returns = torch.zeros((self.n_episodes, B), device=device)
        self._actions: list[npt.NDArray[Any]] = []
        self._horizon = family.horizon
        self._now: list[Tensor] = []
        first = torch.ones((B, 1), dtype=torch.int64, device=device)
        self._first, self._not_first = first, torch.zeros_like(first)
        self._never, self._numbered = ~self.playing, family.spaces.n_rewards > 0
        self._begin(0)

    def _begin(self, episode: int) -> None:
        self._return = self._returns[episode]
        facts, self.observation = self._env.begin(episode)
        self._note_facts(self._goals, facts)

    def step(self, actions: Tensor) -> Received:
        """Take the actions (B,) everywhere."""
        self.observation, rewards = self._env.step(actions)
        self._return.add_(rewards)
        self._now.append(actions)
        self.begun = len(self._now) == self._horizon
        if self.begun:
            self._end()
        seen = rewards[:, None]
        return Received(
            seen.long() if self._numbered else seen, self._first if self.begun else self._not_first
        )

    def _end(self) -> None:
        taken = torch.stack(self._now).cpu().numpy()
        self._actions.append(taken.astype(self.family.spaces.action_type))
        self._now = []
        self.lengths[self.finished] = self.family.horizon
        self.finished += 1
        self.episode = self.episode + 1
        if self.finished < self.n_episodes:
            self._begin(self.finished)
        else:
            self.playing = self._never
        self.begins = self.playing

    def demonstrate(self, actions: Tensor) -> Tensor:
        """The actions themselves: nothing is demonstrated here."""
        return actions

    @property
    def returns(self) -> FloatArray:
        """(episodes, B) sums of rewards."""
        summed: FloatArray = self._returns.cpu().numpy()
        return summed

    @property
    def taken(self) -> npt.NDArray[Any]:
        """As :attr:`actions`: all roll-outs are done at once."""
        return self.actions

    @property
    def actions(self) -> npt.NDArray[Any]:
        """(steps, B) of the episodes that have ended."""
        ended = np.zeros((0, len(self.episode)), dtype=self.family.spaces.action_type)
        return np.concatenate([ended, *self._actions])


class HostStepping(Episodes):
    """Environments that step in NumPy; a roll-out that is done goes on, uncounted, until all are."""

    def __init__(self, rollouts: Rollouts, demonstrated: int = 0) -> None:
        super().__init__(rollouts)
        self._demonstrated = demonstrated
        family, B, n_episodes = rollouts.family, len(rollouts.tasks), rollouts.n_episodes
        self._env = family.environments(rollouts.tasks, rollouts.keys)
        self._device, self._rows = rollouts.device, np.arange(B)
        self._not_first = torch.zeros((B, 1), dtype=torch.int64, device=rollouts.device)
        self.returns: FloatArray = np.zeros((n_episodes, B), dtype=np.float32)
        # A roll-out that is done still steps: its memory may be given to another (knock_out).
        self._taken = np.zeros((n_episodes * family.horizon, B), dtype=family.spaces.action_type)
        self._steps = 0
        self._observed = self._env.reset()
        self._note_facts(self._env.goals, self._env.facts)

    @property
    def observation(self) -> Tensor:
        """(B, fields) on the device."""
        return torch.from_numpy(self._observed).to(self._device)

    def demonstrate(self, actions: Tensor) -> Tensor:
        """The actions (B,) to take: optimal ones where an episode is demonstrated, else the given ones."""
        shown = self.episode < self._demonstrated
        if not shown.any():
            return actions
        optimal = torch.from_numpy(np.asarray(self._env.optimal_actions(), dtype=np.int64))
        return torch.where(torch.from_numpy(shown).to(actions.device), optimal.to(actions.device), actions)

    def step(self, actions: Tensor) -> Received:
        """Take the actions (B,) everywhere."""
        taken = actions.cpu().numpy()
        outcome, playing = self._env.advance(taken), self.playing
        self._observed, rewards = outcome.observed, outcome.rewards
        place = self.episode[playing], self._rows[playing]
        self._taken[self._steps] = taken
        self.returns[place] += rewards[playing]
        self.lengths[place] += 1
        self._steps += 1
        self.begun, first = outcome.any_ended, self._not_first
        if self.begun:
            ended = outcome.terminated | outcome.truncated
            first = torch.from_numpy(ended.astype(np.int64))[:, None].to(self._device)
            self.episode = self.episode + ended
            self.playing = self.episode < self.n_episodes
            self.begins = ended & self.playing
            self.finished = min(int(self.episode.min()), self.n_episodes)
            self._note_facts(self._env.goals, self._env.facts)
        return Received(as_models_take(self.family.spaces, rewards, self._device), first)

    @property
    def taken(self) -> npt.NDArray[Any]:
        """(steps, B) until now, those of roll-outs that are done too."""
        return self._taken[: self._steps]

    @property
    def actions(self) -> npt.NDArray[Any]:
        """(steps, B) until now; 0 where a roll-out is done."""
        counted = np.arange(self._steps)[:, None] < self.lengths.sum(axis=0)
        return np.where(counted, self.taken, 0).astype(self._taken.dtype)


def as_models_take(spaces: Spaces, rewards: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Rewards (B,) as (B, 1) on the device: numbers of their values, or floats."""
    seen = rewards if spaces.reward_values is None else spaces.reward_codes(rewards)
    # Without a reward before it a step has that which is 0, or numbered 0.
    return torch.from_numpy(seen)[:, None].to(device, torch.int64 if spaces.n_rewards else torch.float32)


def start_stepping(rollouts: Rollouts, demonstrated: int = 0) -> DeviceStepping | HostStepping:
    """The roll-outs' environments, before their first step.

    The first ``demonstrated`` episodes take optimal actions, which are known on the host.
    """
    if demonstrated:
        return HostStepping(rollouts, demonstrated)
    tables = make_tables(rollouts.family, rollouts.task_ids)
    return HostStepping(rollouts) if tables is None else DeviceStepping(rollouts, tables)
