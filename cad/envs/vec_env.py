"""A stable-baselines3 environment: all streams in one call, which records their transitions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from cad.envs.arrays import FloatArray, IntArray
from cad.envs.batched import Outcome
from cad.envs.family import AnyFamily
from cad.envs.noise import Keys
from cad.envs.transitions import Transitions

# Observations up to which each one's code is looked up whole.
_MOST_CODES = 100_000


class StreamVecEnv(VecEnv):
    """``B`` streams as one ``VecEnv``; no Python loop over streams in a step.

    **Observation** ``Box`` float32: one-hot codes of the fields, one after the other, the floats as they
    are, and a code of the hidden part of the state where the family has one.  The source agent has no
    memory, so it sees what its own history would tell it; what is recorded, and what the sequence model
    sees, is the family's observation only.

    **Episode end** after ``horizon`` steps, or earlier where the family's episodes do, then automatic
    reset: the returned observation is the next episode's first, ``infos[i]["terminal_observation"]`` the
    true last.  Where all episodes last ``horizon`` steps it is part of the task (returns are sums over
    exactly as many), so that the end is a termination, not a time limit to bootstrap over:
    ``TimeLimit.truncated`` is set only in families whose episodes may end earlier.

    Args:
        family: the rules.
        task_ids: (B,) canonical task of each stream.
        record_steps: how many steps to keep; :attr:`full` is True once they are recorded.
        keys, loads: see :class:`~cad.envs.batched.BatchedEnv`.
    """

    def __init__(
        self,
        family: AnyFamily,
        task_ids: npt.ArrayLike,
        record_steps: int = 0,
        keys: Keys | None = None,
        loads: Sequence[int] | None = None,
    ) -> None:
        self._env = family.environments(task_ids, keys, loads)
        n, spaces = len(self._env), family.spaces
        self._sees_hidden = family.n_hidden_states > 1
        width = sum(spaces.field_sizes) + spaces.n_reals + family.n_hidden_states * self._sees_hidden
        low, high = (-np.inf, np.inf) if spaces.n_reals else (0.0, 1.0)
        super().__init__(
            n, gym.spaces.Box(low, high, (width,), np.float32), gym.spaces.Discrete(spaces.n_actions)
        )
        self._strides: IntArray = np.array(spaces.strides, dtype=np.int64)
        self._no_infos: list[dict[str, Any]] = [{} for _ in range(n)]
        self._actions: IntArray = np.zeros(n, dtype=np.int64)
        self._states: IntArray = self._env.reset()
        self._recorded = 0
        # Time first: one contiguous write a step.
        self._log_states = np.zeros((record_steps, n, spaces.width), dtype=spaces.observation_type)
        self._log_next = np.zeros((record_steps, n, spaces.width), dtype=spaces.observation_type)
        self._log_actions = np.zeros((record_steps, n), dtype=spaces.action_type)
        self._log_rewards = np.zeros((record_steps, n), dtype=spaces.reward_type)
        self._log_ends = np.zeros((record_steps, n), dtype=np.uint8)
        self._log_terminations = np.zeros((record_steps, n), dtype=np.uint8) if family.ends_early else None

    @property
    def full(self) -> bool:
        """Whether ``record_steps`` steps have been recorded; later ones are not kept."""
        return self._recorded >= len(self._log_actions)

    def transitions(self) -> Transitions:
        """The recorded steps so far, streams first."""
        t = self._recorded
        return Transitions(
            states=self._log_states[:t].swapaxes(0, 1).copy(),
            actions=self._log_actions[:t].T.copy(),
            rewards=self._log_rewards[:t].T.copy(),
            next_states=self._log_next[:t].swapaxes(0, 1).copy(),
            episode_ends=self._log_ends[:t].T.copy(),
            terminations=None if self._log_terminations is None else self._log_terminations[:t].T.copy(),
        )

    @cached_property
    def _codes(self) -> npt.NDArray[np.float32]:
        """(observations, sum of field sizes): code of every observation, so that a step is one look-up."""
        spaces = self._env.family.spaces
        every = np.indices(spaces.field_sizes).reshape(spaces.n_fields, -1)
        eyes = [np.eye(size, dtype=np.float32) for size in spaces.field_sizes]
        return np.hstack([eye[values] for eye, values in zip(eyes, every, strict=True)])

    @cached_property
    def _hidden_codes(self) -> npt.NDArray[np.float32]:
        return np.eye(self._env.family.n_hidden_states, dtype=np.float32)

    def _observe(self, states: IntArray, hidden: IntArray) -> npt.NDArray[np.float32]:
        spaces = self._env.family.spaces
        if spaces.n_reals or spaces.n_observations > _MOST_CODES:
            parts = [
                np.eye(size, dtype=np.float32)[states[:, i].astype(np.int64)]
                for i, size in enumerate(spaces.field_sizes)
            ]
            codes: npt.NDArray[np.float32] = np.hstack([*parts, states[:, spaces.n_fields :]])
            codes = codes.astype(np.float32, copy=False)
        else:
            codes = self._codes[states @ self._strides]
        if self._sees_hidden:
            return np.hstack([codes, self._hidden_codes[hidden]])
        return codes

    def reset(self) -> npt.NDArray[np.float32]:
        """Start an episode everywhere."""
        self._states = self._env.reset()
        return self._observe(self._states, self._env.hidden)

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Take the actions, (B,) integers; they are carried out by :meth:`step_wait`."""
        self._actions = actions

    @property
    def states(self) -> IntArray:
        """(B, fields) what the streams observe now."""
        return self._states

    def optimal_actions(self) -> IntArray:
        """(B,) what a policy that knows the tasks does now."""
        return self._env.optimal_actions()

    def advance(self, actions: IntArray) -> tuple[FloatArray, IntArray]:
        """Step every stream and begin an episode where one ended.

        Returns rewards (B,) and the true next states (B, fields); for agents that need no codes.
        """
        outcome = self._step(actions)
        return outcome.rewards, outcome.after

    def _step(self, actions: IntArray) -> Outcome:
        """Step and record."""
        outcome = self._env.advance(actions)
        if not self.full:
            t = self._recorded
            self._log_states[t] = self._states
            self._log_actions[t] = actions
            self._log_rewards[t] = outcome.rewards
            self._log_next[t] = outcome.after
            if outcome.any_ended:
                self._log_ends[t] = outcome.terminated | outcome.truncated
                if self._log_terminations is not None:
                    self._log_terminations[t] = outcome.terminated
            self._recorded += 1
        self._states = outcome.observed
        return outcome

    def step_wait(self) -> VecEnvStepReturn:
        """Step every stream; returns observations, rewards, dones and infos as SB3 wants them."""
        outcome = self._step(self._actions)
        infos, ended = self._no_infos, outcome.terminated | outcome.truncated
        if outcome.any_ended:
            last = self._observe(outcome.after, outcome.hidden)
            infos = [{"terminal_observation": last[i]} if end else {} for i, end in enumerate(ended)]
            if self._env.family.ends_early:
                for i in np.flatnonzero(outcome.truncated):
                    infos[i]["TimeLimit.truncated"] = True
        return self._observe(self._states, self._env.hidden), outcome.rewards, ended, infos

    def close(self) -> None:
        """Nothing to release."""

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Streams share their attributes: the value once for each selected stream."""
        value = None if attr_name == "render_mode" else getattr(self._env, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:  # noqa: ARG002
        """Not possible: streams are rows of arrays, not objects."""
        raise AttributeError(f"a stream has no attribute {attr_name!r} of its own")

    def env_method(
        self,
        method_name: str,
        *method_args: Any,  # noqa: ARG002
        indices: VecEnvIndices = None,  # noqa: ARG002
        **method_kwargs: Any,  # noqa: ARG002
    ) -> list[Any]:
        """Not possible: streams are rows of arrays, not objects."""
        raise AttributeError(f"a stream has no method {method_name!r} of its own")

    def env_is_wrapped(
        self,
        wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]],  # noqa: ARG002
        indices: VecEnvIndices = None,
    ) -> list[bool]:
        """No stream is wrapped."""
        return [False for _ in self._get_indices(indices)]
