"""Gymnasium environments behind our interface: spaces as numbers, episodes of any length, seeds from keys."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from cad.envs.arrays import BoolArray, FloatArray, IntArray
from cad.envs.batched import Outcome
from cad.envs.family import AnyFamily, Spaces
from cad.envs.noise import Keys, derive, noise_keys
from cad.errors import CadError, UsageError, first_line, printable

if TYPE_CHECKING:
    from cad.envs.families.gymnasium_tasks import GymnasiumTasks

_MOST_ACTIONS = 2**16
_EPISODES = 0  # what a key's derived key is for


class Codec:
    """Between one environment's spaces and ours.

    Raises :class:`UsageError` that names ``env.id`` or ``env.bins`` for spaces that are not supported.

    Args:
        env: the environment; it is closed.
        bins: values of each dimension of a Box action.
        name: what messages call the environment.
    """

    def __init__(self, env: gym.Env[Any, Any], bins: int | None, name: str) -> None:
        self.observation_space, self.action_space = env.observation_space, env.action_space
        env.close()
        self._name = name
        parts = list(self._parts(self.observation_space, ""))
        self._fields = [(label, size) for label, size in parts if size]
        self._reals = [label for label, size in parts if not size]
        self.table = self._actions(bins)
        """What the environment takes for each of our actions."""

    def spaces(self, n_rewards: int, values: tuple[float, ...] | None) -> Spaces:
        """Ours."""
        names, sizes = tuple(name for name, _ in self._fields), tuple(size for _, size in self._fields)
        return Spaces(names, sizes, len(self.table), n_rewards, tuple(self._reals), values)

    def _parts(self, space: gym.Space[Any], name: str) -> Iterator[tuple[str, int]]:
        """Name and size of every number of an observation; size 0 for a float."""
        if isinstance(space, gym.spaces.Dict):
            for key, inner in space.spaces.items():
                yield from self._parts(inner, f"{name}.{key}" if name else str(key))
        elif isinstance(space, gym.spaces.Tuple):
            for index, inner in enumerate(space.spaces):
                yield from self._parts(inner, f"{name}.{index}" if name else str(index))
        elif isinstance(space, gym.spaces.Discrete):
            yield name or "state", int(space.n)
        elif isinstance(space, gym.spaces.MultiDiscrete):
            yield from ((f"{name or 'state'}.{i}", int(n)) for i, n in enumerate(space.nvec.ravel()))
        elif isinstance(space, gym.spaces.MultiBinary):
            yield from ((f"{name or 'state'}.{i}", 2) for i in range(int(np.prod(space.shape))))
        elif isinstance(space, gym.spaces.Box):
            yield from ((f"{name or 'x'}.{i}", 0) for i in range(int(np.prod(space.shape))))
        else:
            raise UsageError(
                f"env.id={self._name}: the observation space {space} is not supported; Discrete, "
                "MultiDiscrete, MultiBinary, Box, and Dict or Tuple of these are"
            )

    def _actions(self, bins: int | None) -> list[Any]:
        """What the environment takes for each of our actions."""
        space = self.action_space
        if bins is not None and not isinstance(space, gym.spaces.Box):
            raise UsageError(f"env.bins={bins}: the action space {space} of env.id={self._name} is no Box")
        if isinstance(space, gym.spaces.Discrete):
            return [int(space.start) + i for i in range(int(space.n))]
        axes: list[npt.NDArray[Any]]
        if isinstance(space, gym.spaces.MultiDiscrete):
            sizes = [int(n) for n in space.nvec.ravel()]
            axes = [np.arange(n) for n in sizes]
            start, kind = space.start.ravel(), space.dtype
        elif isinstance(space, gym.spaces.Box):
            if bins is None:
                raise UsageError(
                    f"env.id={self._name}: its actions are {space}; set env.bins, the number of values of "
                    "each dimension"
                )
            if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
                raise UsageError(f"env.id={self._name}: its action space {space} has no finite bounds to bin")
            low, high = (ends.ravel().astype(np.float64) for ends in (space.low, space.high))
            sizes = [bins if a < b else 1 for a, b in zip(low, high, strict=True)]
            axes = [np.linspace(a, b, n) for a, b, n in zip(low, high, sizes, strict=True)]
            start, kind = np.zeros(len(low)), space.dtype
            if np.issubdtype(kind, np.integer):
                axes = [np.rint(axis) for axis in axes]
            if any(len(np.unique(axis.astype(kind))) < len(axis) for axis in axes):
                raise UsageError(
                    f"env.bins={bins}: {space} of env.id={self._name} has fewer values between its bounds; "
                    "use fewer env.bins"
                )
        else:
            raise UsageError(
                f"env.id={self._name}: the action space {space} is not supported; Discrete, MultiDiscrete "
                "and Box (with env.bins) are"
            )
        total = int(np.prod(sizes, dtype=np.float64))
        if total > _MOST_ACTIONS:
            raise UsageError(
                f"env.id={self._name}: {' x '.join(map(str, sizes))} combinations are {total} actions, more "
                f"than {_MOST_ACTIONS}; use fewer env.bins"
            )
        mesh = np.stack([part.ravel() for part in np.meshgrid(*axes, indexing="ij")], axis=-1) + start
        return list(mesh.astype(kind).reshape(total, *space.shape))

    def encode(self, observations: Sequence[Any]) -> npt.NDArray[np.float64]:
        """Observations as numbers (n, width): whole ones first, then floats.

        Raises any exception for what has another shape than the space; ranges are not looked at.
        """
        whole: list[npt.NDArray[Any]] = []
        floats: list[npt.NDArray[Any]] = []
        _flatten(self.observation_space, observations, whole, floats)
        return np.concatenate([*whole, *floats], axis=1, dtype=np.float64)

    def encode_stacked(self, observations: Any) -> npt.NDArray[np.float64]:
        """As :meth:`encode`, of n observations in an array, or in a dict or tuple of arrays."""
        whole: list[npt.NDArray[Any]] = []
        floats: list[npt.NDArray[Any]] = []
        _flatten_stacked(self.observation_space, observations, whole, floats)
        numbers: npt.NDArray[np.float64] = np.concatenate([*whole, *floats], axis=1, dtype=np.float64)
        return numbers

    def decode_stacked(self, numbers: npt.NDArray[Any]) -> Any:
        """The n observations whose numbers (n, width) these are; see :meth:`encode_stacked`."""
        whole, floats = iter(range(len(self._fields))), iter(range(len(self._fields), numbers.shape[1]))
        return _unflatten(self.observation_space, numbers, whole, floats)

    def actions_of(self, numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What the environment takes for our actions (n,): (n, ...)."""
        taken: npt.NDArray[Any] = np.array(self.table, dtype=self.action_space.dtype)[numbers]
        return taken

    def numbers_of(self, actions: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Our numbers (n,) of actions of the environment; of a Box, those of the nearest bins.

        Raises ``ValueError`` that names one that is not in the action space.
        """
        table = np.array(self.table, dtype=np.float64).reshape(len(self.table), -1)
        given = np.asarray(actions, dtype=np.float64).reshape(len(actions), -1)
        if given.shape[1] != table.shape[1]:
            raise ValueError(f"an action has {given.shape[1]} numbers; actions are {self.action_space}")
        distance = np.stack([np.abs(table - each).sum(axis=1) for each in given])
        nearest: npt.NDArray[np.int64] = distance.argmin(axis=1)
        wrong = distance.min(axis=1) != 0
        if isinstance(self.action_space, gym.spaces.Box):
            inside = (given >= table.min(axis=0)) & (given <= table.max(axis=0))
            wrong = ~inside.all(axis=1)
        if wrong.any():
            step = int(np.flatnonzero(wrong)[0])
            raise ValueError(f"step {step}: action {actions[step]} is not in {self.action_space}")
        return nearest


class PlainCodec:
    """As :class:`Codec`, for a family of our own: observations and actions are the numbers themselves."""

    def __init__(self, spaces: Spaces) -> None:
        self.observation_space: gym.Space[Any] = (
            gym.spaces.Box(-np.inf, np.inf, (spaces.width,), np.float32)
            if spaces.n_reals
            else gym.spaces.MultiDiscrete(list(spaces.field_sizes))
        )
        self.action_space: gym.Space[Any] = gym.spaces.Discrete(spaces.n_actions)

    def encode_stacked(self, observations: Any) -> npt.NDArray[np.float64]:
        """See :meth:`Codec.encode_stacked`."""
        return np.asarray(observations, dtype=np.float64)

    def decode_stacked(self, numbers: npt.NDArray[Any]) -> Any:
        """See :meth:`Codec.decode_stacked`."""
        return numbers.astype(self.observation_space.dtype)

    def actions_of(self, numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """See :meth:`Codec.actions_of`."""
        return numbers.astype(np.int64)

    def numbers_of(self, actions: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """See :meth:`Codec.numbers_of`; what is out of range is found later."""
        return np.asarray(actions).astype(np.int64).reshape(-1)


AnyCodec = Codec | PlainCodec


def _flatten_stacked(
    space: gym.Space[Any], values: Any, whole: list[npt.NDArray[Any]], floats: list[npt.NDArray[Any]]
) -> None:
    """Append the numbers (n, ...) of n values of a space, each part of which is one array."""
    if isinstance(space, gym.spaces.Dict):
        for key, inner in space.spaces.items():
            _flatten_stacked(inner, values[key], whole, floats)
    elif isinstance(space, gym.spaces.Tuple):
        for index, inner in enumerate(space.spaces):
            _flatten_stacked(inner, values[index], whole, floats)
    else:
        _flatten(space, values, whole, floats)


def _unflatten(
    space: gym.Space[Any], numbers: npt.NDArray[Any], whole: Iterator[int], floats: Iterator[int]
) -> Any:
    """n values of a space, each part one array, from the columns of ``numbers`` (n, width)."""
    if isinstance(space, gym.spaces.Dict):
        return {key: _unflatten(inner, numbers, whole, floats) for key, inner in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(_unflatten(inner, numbers, whole, floats) for inner in space.spaces)
    shape: tuple[int, ...] = tuple(space.shape or ())
    columns = floats if isinstance(space, gym.spaces.Box) else whole
    chosen = [next(columns) for _ in range(int(np.prod(shape)))]
    part = numbers[:, chosen] + np.ravel(getattr(space, "start", 0))
    return part.astype(space.dtype).reshape(len(numbers), *shape)


def _flatten(
    space: gym.Space[Any],
    values: Sequence[Any],
    whole: list[npt.NDArray[Any]],
    floats: list[npt.NDArray[Any]],
) -> None:
    """Append the numbers (n, ...) of n values of a space."""
    if isinstance(space, gym.spaces.Dict):
        for key, inner in space.spaces.items():
            _flatten(inner, [value[key] for value in values], whole, floats)
    elif isinstance(space, gym.spaces.Tuple):
        for index, inner in enumerate(space.spaces):
            _flatten(inner, [value[index] for value in values], whole, floats)
    else:
        array = np.array(values).reshape(len(values), -1)
        if array.shape[1] != math.prod(space.shape or ()):
            raise ValueError(f"{array.shape[1]} numbers for {space}")
        if isinstance(space, gym.spaces.Box):
            floats.append(array)
        else:  # MultiBinary begins at 0
            whole.append(array - np.ravel(getattr(space, "start", 0)))


class ForeignEnv:
    """``B`` Gymnasium environments, each in an episode of its own.

    See :class:`~cad.envs.batched.Environments`.
    They are stepped one by one, as ``gymnasium.vector.SyncVectorEnv`` does; that class resets all with one
    set of options, and tasks have their own.

    Raises :class:`UsageError` for a task whose spaces differ from the first one's, :class:`CadError` for an
    observation that is not in the observation space (floats need only be finite), a reward that is no finite
    number, and what the environment itself raises.
    """

    def __init__(self, family: GymnasiumTasks, task_ids: npt.ArrayLike, keys: Keys | None = None) -> None:
        self.family: AnyFamily = family
        self._config = family.config
        self.task_ids: IntArray = np.asarray(task_ids, dtype=np.int64).ravel()
        self.goals = family.goals(self.task_ids)
        n = len(self.task_ids)
        self.facts: IntArray = np.zeros(n, dtype=np.int64)
        self.hidden: IntArray = np.zeros(n, dtype=np.int64)
        if keys is None:
            keys = noise_keys("batch", 0, self.task_ids, np.arange(n))
        self._seeds = derive(keys, _EPISODES)
        self._codec = family.codec
        self._envs = [family.make(int(task)) for task in self.task_ids]
        for task, env in zip(self.task_ids, self._envs, strict=True):
            for what, same in (("observation_space", same_numbers), ("action_space", same_actions)):
                theirs, first = getattr(env, what), getattr(self._codec, what)
                if not same(theirs, first):
                    raise UsageError(
                        f"env.tasks[{task}]: its {what.replace('_', ' ')} is {theirs}, that of another task "
                        f"{first}; all tasks need the same"
                    )
        whole = not family.spaces.n_reals
        self._type: npt.DTypeLike = np.int64 if whole else np.float32
        self._sizes = np.array(family.spaces.field_sizes, dtype=np.int64)
        largest = np.full(family.spaces.n_reals, np.finfo(np.float32).max, dtype=np.float64)
        self._lowest = np.concatenate([np.zeros(len(self._sizes)), -largest])
        self._highest = np.concatenate([self._sizes - 1, largest])
        self._episode, self._steps_taken = np.zeros((2, n), dtype=np.int64)
        self._observed: npt.NDArray[Any] = np.zeros((n, family.spaces.width), dtype=self._type)

    def __len__(self) -> int:
        """Number of environments."""
        return len(self._envs)

    def optimal_actions(self) -> IntArray:
        """Unknown: raises :class:`UsageError`."""
        return self.family.optimal_actions(self.goals, self._observed, self.hidden, 0)

    def _begin(self, rows: Sequence[int]) -> npt.NDArray[np.float64]:
        """Start the next episode of some environments; the first observations (rows, width)."""
        first = []
        for row in rows:
            task = self._config.tasks[int(self.task_ids[row])]
            seed = task.seed
            if seed is None and self._episode[row] == 0:  # later episodes go on with the same generator
                seed = int(self._seeds[row] >> np.uint64(33))
            try:
                begun = self._envs[row].reset(seed=seed, options=task.options or None)
            except (Exception, SystemExit) as error:  # code of others may raise anything
                raise self._raised(row, error, "at the start of an episode") from error
            if not (isinstance(begun, tuple) and len(begun) == 2):
                raise CadError(
                    f"{self._of(row)}: reset() gives {printable(begun, 80)}, which is not (observation, info)"
                )
            first.append(begun[0])
        return self._encode(first, rows)

    def _of(self, row: int) -> str:
        return f"env.id={self._config.id}: task {self.task_ids[row]}"

    def _raised(self, row: int, error: BaseException, where: str) -> CadError:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return CadError(
            f"{self._of(row)} raises {type(error).__name__} {where}: {first_line(error)} "
            f"({Path(last.filename).name}, line {last.lineno})"
        )

    def _encode(self, observations: Sequence[Any], rows: Sequence[int]) -> npt.NDArray[np.float64]:
        try:
            return self._codec.encode(observations)
        except Exception:  # something of another type or shape: which?
            for row, observation in zip(rows, observations, strict=True):
                try:
                    self._codec.encode([observation])
                except Exception as error:
                    raise CadError(
                        f"{self._of(row)} observes {printable(observation, 80)}, which is not in its "
                        f"observation space {self._codec.observation_space} ({first_line(error)})"
                    ) from error
            raise

    def _checked(self, observed: npt.NDArray[Any], rows: Sequence[int], where: str) -> npt.NDArray[Any]:
        """Observations of ``rows`` as they are kept; :class:`CadError` for a number not in its range."""
        n_fields = len(self._sizes)
        right = (observed >= self._lowest) & (observed <= self._highest)  # neither is true of NaN
        if n_fields:
            whole = observed[:, :n_fields]
            right[:, :n_fields] &= whole == np.floor(whole)
        if not right.all():
            at, column = np.argwhere(~right)[0]
            row = rows[at]
            spaces = self.family.spaces
            what = (*spaces.field_names, *spaces.real_names)[column]
            words = (
                f"a whole number in 0..{self._sizes[column] - 1}"
                if column < n_fields
                else "a finite number of 32 bits"
            )
            raise CadError(
                f"{self._of(row)} observes {what}={observed[at, column]:g} {where}, which is not {words}"
            )
        return observed.astype(self._type)

    def _columns(self, given: Sequence[Any]) -> tuple[Sequence[Any], FloatArray, BoolArray, BoolArray]:
        """Observations, rewards and flags of what step() gave in each environment."""
        n = len(given)
        try:
            seen, gained, ended, cut, _ = zip(*given, strict=True)
            rewards = np.array(gained, dtype=np.float32)
            terminated, truncated = np.array(ended, dtype=bool), np.array(cut, dtype=bool)
            if rewards.shape == terminated.shape == truncated.shape == (n,):
                return seen, rewards, terminated, truncated
        except (TypeError, ValueError):
            pass
        # One by one: which is it?  What is right alone, such as arrays of one number, is taken.
        rewards, (terminated, truncated) = np.zeros(n, dtype=np.float32), np.zeros((2, n), dtype=bool)
        observed: list[Any] = []
        for row, one in enumerate(given):
            try:
                observation, rewards[row], terminated[row], truncated[row], _ = one
            except (TypeError, ValueError) as error:
                raise CadError(
                    f"{self._of(row)}: step() gives {printable(one, 80)}, which is not (observation, "
                    "reward, terminated, truncated, info) with a number and two flags"
                ) from error
            observed.append(observation)
        return observed, rewards, terminated, truncated

    def reset(self) -> IntArray:
        """Start an episode everywhere; one in which no step was taken starts again."""
        self._episode = self._episode + (self._steps_taken > 0)
        self._steps_taken = np.zeros_like(self._steps_taken)
        self._observed = self._started(range(len(self)))
        return self._observed

    def _started(self, rows: Sequence[int]) -> npt.NDArray[Any]:
        return self._checked(self._begin(rows), rows, "at the start of an episode")

    def advance(self, actions: IntArray) -> Outcome:
        """See :meth:`~cad.envs.batched.Environments.advance`."""
        table, given = self._codec.table, []
        for env, action in zip(self._envs, actions.tolist(), strict=True):
            try:
                given.append(env.step(table[action]))
            except (Exception, SystemExit) as error:  # code of others may raise anything
                row = len(given)
                where = f"in step {self._steps_taken[row] + 1} of an episode"
                raise self._raised(row, error, where) from error
        seen, rewards, terminated, truncated = self._columns(given)
        if not np.isfinite(rewards).all():
            row = int(np.flatnonzero(~np.isfinite(rewards))[0])
            raise CadError(f"{self._of(row)} gives a reward of {rewards[row]}")
        self._steps_taken = self._steps_taken + 1
        truncated = ~terminated & (truncated | (self._steps_taken >= self.family.horizon))
        rows = range(len(self))
        where = f"after step {int(self._steps_taken.max())} of an episode"
        checked = self._checked(self._encode(seen, rows), rows, where)
        ended, self._observed = terminated | truncated, checked
        any_ended = bool(ended.any())
        if any_ended:
            self._episode = self._episode + ended
            self._steps_taken = np.where(ended, 0, self._steps_taken)
            self._observed = checked.copy()
            self._observed[ended] = self._started(np.flatnonzero(ended).tolist())
        return Outcome(checked, rewards, terminated, truncated, self.hidden, any_ended, self._observed)


def same_numbers(one: gym.Space[Any], other: gym.Space[Any]) -> bool:
    """Whether observations of two spaces are the same numbers; the bounds of floats may differ."""
    if isinstance(one, gym.spaces.Box) and isinstance(other, gym.spaces.Box):
        return one.shape == other.shape
    if isinstance(one, gym.spaces.Dict) and isinstance(other, gym.spaces.Dict):
        return list(one) == list(other) and all(same_numbers(one[key], other[key]) for key in one)
    if isinstance(one, gym.spaces.Tuple) and isinstance(other, gym.spaces.Tuple):
        return len(one) == len(other) and all(map(same_numbers, one, other))
    return bool(one == other)


def same_actions(one: gym.Space[Any], other: gym.Space[Any]) -> bool:
    """Whether actions mean the same in two spaces: bins lie between bounds, so these are equal too."""
    if isinstance(one, gym.spaces.Box) and isinstance(other, gym.spaces.Box):
        return one.shape == other.shape and np.allclose([one.low, one.high], [other.low, other.high])
    return bool(one == other)
