"""Many environments stepped by one NumPy operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from cad.envs.arrays import BoolArray, FloatArray, IntArray, NoiseArray
from cad.envs.family import AnyFamily
from cad.envs.noise import Keys, derive, noise_keys, permutations, uniform

# What a key's derived keys are for.
_EPISODES, _ORDER, _LOAD, _STEPS = range(4)


def step_noise(keys: Keys, steps: int | npt.NDArray[np.integer]) -> NoiseArray:
    """What chance decides in environments with ``keys`` at ``steps``, counted from the first episode on."""
    return uniform(derive(keys, _STEPS), steps)


class FactDraws:
    """Which fact each episode needs: drawn uniformly from all facts of a task, or from some of them.

    Args:
        n_facts: facts of a task.
        keys: (n,) of the environments.
        loads: each environment meets a random subset of its task's facts, whose size is drawn from
            these; None: all facts.
    """

    def __init__(self, n_facts: int, keys: Keys, loads: Sequence[int] | None = None) -> None:
        self._n_facts = n_facts
        self._episodes = derive(keys, _EPISODES)
        self._order = permutations(derive(keys, _ORDER), n_facts)
        self._load = np.full(len(keys), n_facts)
        if loads is not None:
            drawn = uniform(derive(keys, _LOAD), 0)
            self._load = np.array(loads)[(drawn * len(loads)).astype(np.int64)]

    def draw(self, episode: int | IntArray) -> IntArray:
        """The facts (n,) that the episodes of this number, or of these numbers (n,), need."""
        if self._n_facts == 1:
            return np.zeros(len(self._episodes), dtype=np.int64)
        place = (uniform(self._episodes, episode) * self._load).astype(np.int64)
        facts: IntArray = self._order[np.arange(len(place)), place]
        return facts


class Outcome(NamedTuple):
    """What one step led to in B environments, each of which goes on with its next episode at once."""

    after: IntArray
    """(B, fields) the true observations after the step, at an episode's end too."""

    rewards: FloatArray
    """(B,)."""

    terminated: BoolArray
    """(B,) whether the task ended the episode."""

    truncated: BoolArray
    """(B,) whether the episode ended because it had lasted ``horizon`` steps."""

    hidden: IntArray
    """(B,) the part of the state after the step that no observation shows."""

    any_ended: bool
    """Whether an episode ended anywhere."""

    observed: IntArray
    """(B, fields) what is observed next: ``after``, or the first observation of the next episode."""


class Environments(Protocol):
    """``B`` environments of one family that are stepped together."""

    family: AnyFamily
    task_ids: IntArray

    def __len__(self) -> int:
        """B."""

    @property
    def goals(self) -> IntArray:
        """(B, numbers in a goal)."""

    @property
    def facts(self) -> IntArray:
        """(B,) the fact that the present episode needs."""

    @property
    def hidden(self) -> IntArray:
        """(B,) the part of the state that no observation shows."""

    def optimal_actions(self) -> IntArray:
        """(B,) what a policy that knows the tasks does now."""

    def reset(self) -> IntArray:
        """Start an episode everywhere; returns the observations, (B, fields)."""

    def advance(self, actions: IntArray) -> Outcome:
        """Step everywhere with ``actions`` (B,), and start the next episode where one ended."""


class BatchedEnv:
    """``B`` environments of one family in lock step: all episodes start and end together.

    For families whose episodes all last ``horizon`` steps; see :mod:`cad.envs.varying` for others.

    There is no automatic reset: after the last step of an episode ``step`` returns the true
    terminal observation, and the caller calls :meth:`reset`.

    Args:
        family: the rules.
        task_ids: (B,) canonical task id of each environment; repeats are fine.
        keys: (B,) of :mod:`cad.envs.noise`: what is random in each; default: of its place in the batch.
        loads: see :class:`FactDraws`.
    """

    def __init__(
        self,
        family: AnyFamily,
        task_ids: npt.ArrayLike,
        keys: Keys | None = None,
        loads: Sequence[int] | None = None,
    ) -> None:
        self.family = family
        self.task_ids: IntArray = np.asarray(task_ids, dtype=np.int64).ravel()
        self.goals = family.goals(self.task_ids)
        if keys is None:
            keys = noise_keys("batch", 0, self.task_ids, np.arange(len(self.task_ids)))
        self._draws, self._keys = FactDraws(family.n_facts, keys, loads), keys
        self._never: BoolArray = np.zeros(len(self.task_ids), dtype=bool)
        self._episode = self._steps_taken = 0
        self._begin()

    def _begin(self) -> None:
        self.facts = self._draws.draw(self._episode)
        """(B,) the fact that the episode needs."""
        self._states, self._hidden = self.family.begin(self.goals, self.facts)

    def __len__(self) -> int:
        """Number of environments."""
        return len(self.task_ids)

    @property
    def hidden(self) -> IntArray:
        """(B,) the part of the state that no observation shows; see :class:`TaskFamily`."""
        return self._hidden

    def optimal_actions(self) -> IntArray:
        """(B,) what a policy that knows the tasks does now."""
        left = self.family.horizon - self._steps_taken
        return self.family.optimal_actions(self.goals, self._states, self._hidden, left)

    def reset(self) -> IntArray:
        """Start the next episode everywhere; returns the observations, (B, fields) int64.

        An episode in which no step was taken starts again.
        """
        self._episode += self._steps_taken > 0
        self._steps_taken = 0
        self._begin()
        return self._states

    def step(self, actions: IntArray) -> tuple[IntArray, FloatArray, bool]:
        """Take one step everywhere.

        Args:
            actions: (B,) integers below ``spaces.n_actions``.

        Returns:
            observations (B, fields) int64, a fresh array that later steps leave alone; rewards (B,)
            float32; whether the episode ended with this step (everywhere, at the horizon).

        Raises ``RuntimeError`` when the episode is already over.
        """
        if self._steps_taken >= self.family.horizon:
            raise RuntimeError("the episode is over; call reset()")
        noise = None
        if self.family.is_random:
            noise = step_noise(self._keys, self._episode * self.family.horizon + self._steps_taken)
        self._states, rewards, self._hidden = self.family.transition(
            self.goals, self._states, self._hidden, actions, noise
        )
        self._steps_taken += 1
        return self._states, rewards, self._steps_taken == self.family.horizon

    def advance(self, actions: IntArray) -> Outcome:
        """See :meth:`Environments.advance`; every episode is truncated at the horizon, all at once."""
        after, rewards, done = self.step(actions)
        truncated = ~self._never if done else self._never
        hidden = self._hidden
        observed = self.reset() if done else after
        return Outcome(after, rewards, self._never, truncated, hidden, done, observed)
