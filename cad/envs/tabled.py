"""Environments that step on the device of a model: the transitions of their family, looked up in tables.

The tables are made by the family's own :meth:`~cad.envs.family.TaskFamily.transition`, of all states that
can be reached, so that a step is the same as in :class:`~cad.envs.batched.BatchedEnv`.  On a GPU no step
waits for the host; on a CPU a step is a look-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cad.envs.arrays import FloatArray, IntArray, NoiseArray
from cad.envs.batched import FactDraws, step_noise
from cad.envs.family import AnyFamily, TaskFamily
from cad.envs.noise import Keys

# Transitions of all tasks above which tables would take longer than they save (and 100 MB).
_MOST_ROWS = 500_000
# The same of numbers in the goals of all transitions: transition() is given one goal a transition.
_MOST_NUMBERS = 25_000_000
_LARGEST_NOISE = np.nextafter(1.0, 0.0)


@dataclass(frozen=True)
class Tables:
    """Transitions of U tasks with S states and A actions; with chance, of K + 1 outcomes each.

    A state's number is its task's, times S, plus that of its hidden part and observation.
    """

    n_states: int
    """S."""
    after: IntArray
    """(U S A (K + 1), 1 + fields) the state's number afterwards, and what is observed of it."""
    rewards: FloatArray
    """(U S A (K + 1),)."""
    cuts: NoiseArray | None
    """(U S A, K) numbers at which one outcome ends and the next begins; None without chance."""


def make_tables(family: AnyFamily, task_ids: Sequence[int]) -> Tables | None:
    """The tables of tasks, each of them once; None where the family or its size does not allow it.

    A family without rules, with environments of its own, or one whose episodes end early has none, nor has
    one with chance that does not say between which numbers it makes no difference (``noise_cuts``; those of
    an older class than its ``transition`` do not count), one whose rewards are numbered by ``reward_values``,
    or one whose states leave its spaces.
    """
    spaces = family.spaces
    S, A, U = spaces.n_observations * family.n_hidden_states, spaces.n_actions, len(task_ids)
    if not _is_of_tables(family) or U * S * A > _MOST_ROWS:
        return None
    numbering = _Numbering(family)
    goals = family.goals(task_ids)
    facts = np.tile(np.arange(family.n_facts), U)
    tasks = np.arange(U).repeat(family.n_facts)
    begun = family.begin(goals[tasks], facts)
    if not numbering.holds(*begun):
        return None
    known, reached = np.zeros(U * S, dtype=bool), tasks * S + numbering(*begun)
    outcomes = 1
    if family.is_random:
        cuts = _cuts(family, numbering, goals, reached[:1], S)
        if cuts is None:
            return None
        outcomes = cuts.shape[1] + 1
    rows_of_all = U * S * A * outcomes
    if rows_of_all > _MOST_ROWS or rows_of_all * goals[0].size > _MOST_NUMBERS:
        return None
    after = np.zeros((rows_of_all, 1 + spaces.width), dtype=np.int64)
    rewards = np.zeros(rows_of_all, dtype=np.float32)
    all_cuts = np.zeros((U * S * A, outcomes - 1)) if family.is_random else None
    for _ in range(family.horizon):
        reached = np.unique(reached[~known[reached]])
        if not len(reached):
            break
        known[reached] = True
        here, actions = reached.repeat(A), np.tile(np.arange(A), len(reached))
        noise = None
        if all_cuts is not None:
            cuts = _cuts(family, numbering, goals, reached, S)
            assert cuts is not None
            all_cuts[here * A + actions] = cuts
            first = np.concatenate([np.zeros((len(cuts), 1)), cuts], axis=1)
            here, actions = here.repeat(outcomes), actions.repeat(outcomes)
            # Outcomes of no chance at all begin at 1, where there is no noise.
            noise = first.ravel().clip(max=_LARGEST_NOISE)
        task, state = np.divmod(here, S)
        observed, hidden = numbering.state(state)
        observed, paid, hidden = family.transition(goals[task], observed, hidden, actions, noise)
        if not (numbering.holds(observed, hidden) and paid.dtype == np.float32):
            return None
        rows = ((reached[:, None] * A + np.arange(A))[..., None] * outcomes + np.arange(outcomes)).ravel()
        reached = task * S + numbering(observed, hidden)
        after[rows, 0], after[rows, 1:], rewards[rows] = reached, observed, paid
    return Tables(S, after, rewards, all_cuts)


def _is_of_tables(family: AnyFamily) -> bool:
    """Whether steps of a family are look-ups, if there are not too many."""
    spaces, own_environments = family.spaces, type(family).environments is not TaskFamily.environments
    whole = not spaces.n_reals and spaces.reward_values is None
    known = not family.is_random or _knows_its_noise(type(family))
    return whole and known and family.has_rules and not family.ends_early and not own_environments


def _knows_its_noise(kind: type[AnyFamily]) -> bool:
    """Whether ``noise_cuts`` are of the class that says what happens, or one below: not of an older one."""
    rules, cuts = (
        next(n for n, base in enumerate(kind.__mro__) if name in vars(base))
        for name in ("transition", "noise_cuts")
    )
    return cuts <= rules


def _cuts(
    family: AnyFamily, numbering: _Numbering, goals: IntArray, states: IntArray, n_states: int
) -> NoiseArray | None:
    """``noise_cuts`` (n A, K) of all actions in states of these numbers (n,)."""
    A = family.spaces.n_actions
    task, state = np.divmod(states.repeat(A), n_states)
    observed, hidden = numbering.state(state)
    return family.noise_cuts(goals[task], observed, hidden, np.tile(np.arange(A), len(states)))


class _Numbering:
    """States of a task of a family as numbers, and back."""

    def __init__(self, family: AnyFamily) -> None:
        spaces = family.spaces
        self._sizes, self._n_hidden = np.array(spaces.field_sizes), family.n_hidden_states
        self._strides, self._n = np.array(spaces.strides), spaces.n_observations

    def __call__(self, observed: IntArray, hidden: IntArray) -> IntArray:
        """Numbers (n,) of observations (n, fields) with hidden parts (n,)."""
        numbers: IntArray = hidden * self._n + observed @ self._strides
        return numbers

    def holds(self, observed: IntArray, hidden: IntArray) -> bool:
        """Whether all are states that can be numbered."""
        places = (observed >= 0) & (observed < self._sizes)
        return bool(places.all() and (hidden >= 0).all() and (hidden < self._n_hidden).all())

    def state(self, numbers: IntArray) -> tuple[IntArray, IntArray]:
        """Observations (n, fields) and hidden parts (n,)."""
        hidden, place = np.divmod(numbers, self._n)
        return place[:, None] // self._strides % self._sizes, hidden


class TabledEnv:
    """``B`` environments of one family in lock step, on a device; see :class:`~cad.envs.batched.BatchedEnv`.

    Between two episodes the facts, the first states and what chance decides in the next episode are sent to
    the device; within one nothing is.
    """

    def __init__(
        self,
        family: AnyFamily,
        tables: Tables,
        task_numbers: IntArray,
        goals: IntArray,
        keys: Keys,
        device: torch.device,
    ) -> None:
        """``task_numbers`` (B,) are places in the tables' tasks; ``goals`` (B, ...) and ``keys`` (B,)."""
        self.family = family
        self._goals, self._keys, self._device = goals, keys, device
        self._draws, self._numbering = FactDraws(family.n_facts, keys), _Numbering(family)
        self._offsets = task_numbers * tables.n_states
        self._n_actions = family.spaces.n_actions
        self._after = torch.from_numpy(tables.after).to(device)
        self._rewards = torch.from_numpy(tables.rewards).to(device)
        self._cuts = None if tables.cuts is None else torch.from_numpy(tables.cuts).to(device)
        self._noise = torch.empty(0)
        self._steps_taken = 0

    def begin(self, episode: int) -> tuple[IntArray, Tensor]:
        """Start an episode everywhere; the facts (B,), and first observations (B, fields) on the device."""
        facts = self._draws.draw(episode)
        observed, hidden = self.family.begin(self._goals, facts)
        numbers = self._offsets + self._numbering(observed, hidden)
        self._state = self._send(numbers)
        if self._cuts is not None:
            horizon = self.family.horizon
            steps = episode * horizon + np.arange(horizon)
            self._noise = self._send(step_noise(self._keys[None], steps[:, None])[..., None])
        self._steps_taken = 0
        return facts, self._send(observed)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Observations (B, fields) int64 and rewards (B,) float32 after ``actions`` (B,), on the device."""
        row = self._state * self._n_actions + actions
        if self._cuts is not None:
            cuts = self._cuts.index_select(0, row)
            outcome = (cuts <= self._noise[self._steps_taken]).sum(dim=1)
            row = row * (cuts.shape[1] + 1) + outcome
        after = self._after.index_select(0, row)
        self._state = after[:, 0]
        self._steps_taken += 1
        return after[:, 1:], self._rewards.index_select(0, row)

    def _send(self, values: npt.NDArray[np.generic]) -> Tensor:
        tensor = torch.from_numpy(values)
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)
