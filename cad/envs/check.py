"""Does a task family keep what it promises?  Every promise is tried out, and what is wrong said in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from cad.envs.arrays import IntArray
from cad.envs.config import EnvConfig
from cad.envs.family import AnyFamily
from cad.envs.noise import Keys, noise_keys
from cad.envs.registry import task_family
from cad.envs.split import split_tasks
from cad.envs.tabled import TabledEnv, make_tables
from cad.errors import CadError

# Tasks that are tried out, environments of each, and episodes of each environment.
_MOST_TASKS, _COPIES, _EPISODES = 12, 4, 3
_RANDOM_COPIES = 400  # where chance decides: enough for a mean
_STANDARD_ERRORS = 5.0


class _Fault(Exception):
    """What is wrong, in words."""


@dataclass(frozen=True)
class Finding:
    """One promise: what it is about, whether it is kept, and what was seen."""

    promise: str
    kept: bool
    words: str


def check_family(env: EnvConfig) -> Iterator[Finding]:
    """Try every promise of the family that ``env`` describes, one after the other.

    After spaces or tasks that are wrong the others cannot be tried.
    """
    family: AnyFamily | None = None

    def made() -> str:
        nonlocal family
        family = task_family(env)
        return _spaces(family)

    first = _tried("spaces", made)
    yield first
    if not first.kept or family is None:
        return
    rules = family
    second = _tried("tasks", lambda: _tasks(rules))
    yield second
    if not second.kept:
        return
    yield _tried("split", lambda: _split(rules, env))
    steps = _tried("steps", lambda: _steps(rules))
    yield steps
    if steps.kept:
        yield _tried("seed", lambda: _same_again(rules))
        yield _tried("batch", lambda: _batch_is_its_singles(rules))
        yield _tried("tables", lambda: _tables(rules))
        yield _tried("optimum", lambda: _optimum(rules))


def _tried(promise: str, attempt: Callable[[], str]) -> Finding:
    try:
        return Finding(promise, True, attempt())
    except (_Fault, CadError) as fault:
        return Finding(promise, False, str(fault))
    except Exception as error:  # code of others may raise anything
        return Finding(promise, False, f"it raises {type(error).__name__}: {error}")


def _require(holds: bool, words: str) -> None:
    if not holds:
        raise _Fault(words)


def _spaces(family: AnyFamily) -> str:
    spaces = family.spaces
    _require(
        len(spaces.field_names) == len(spaces.field_sizes) and spaces.width > 0,
        f"spaces: {len(spaces.field_names)} field_names for {len(spaces.field_sizes)} field_sizes; an "
        "observation needs at least one field, and each a name and a size",
    )
    most = 2**24 if spaces.n_reals else 2**31  # what histories hold exactly
    for name, size in zip(spaces.field_names, spaces.field_sizes, strict=True):
        _require(1 <= size <= most, f"spaces: field {name} has size {size}; sizes are from 1 to {most}")
    _require(
        2 <= spaces.n_actions <= 2**16,
        f"spaces: n_actions={spaces.n_actions}; an agent chooses among 2 to {2**16} actions",
    )
    values = spaces.reward_values
    _require(
        spaces.n_rewards != 1
        and spaces.n_rewards >= 0
        and (values is None or len(values) == spaces.n_rewards),
        f"spaces: n_rewards={spaces.n_rewards}, reward_values={values}; rewards are at least two whole "
        "numbers from 0, as many reward_values, or with n_rewards=0 floats",
    )
    _require(
        family.n_facts >= 1 and family.n_hidden_states >= 1, "n_facts and n_hidden_states are at least 1"
    )
    _require(family.horizon >= 1, f"an episode has {family.horizon} steps")
    fields = [f"{n} below {s}" for n, s in zip(spaces.field_names, spaces.field_sizes, strict=True)]
    rewards = f"{spaces.n_rewards} rewards" if spaces.n_rewards else "rewards of any size"
    return (
        f"{', '.join([*fields, *spaces.real_names])}; {spaces.n_actions} actions, {rewards}, "
        f"{'at most ' * family.ends_early}{family.horizon} steps an episode"
    )


def _some_tasks(family: AnyFamily) -> list[int]:
    every = max(1, len(family.task_ids) // _MOST_TASKS)
    return list(family.task_ids[::every][:_MOST_TASKS])


def _tasks(family: AnyFamily) -> str:
    named: dict[tuple[int, ...], int] = {}
    for task in _some_tasks(family):
        goal = family.goal(task)
        _require(
            isinstance(goal, tuple) and all(isinstance(part, int) for part in goal),
            f"goal({task}) is {goal!r}; it is a tuple of whole numbers",
        )
        other = named.setdefault(goal, task)
        _require(other == task, f"tasks {other} and {task} are one: both have the goal {goal}")
        _require(bool(family.describe(task).strip()), f"describe({task}) is empty; it is what tables show")
        best = family.optimal_return(task)
        _require(bool(np.isfinite(best)), f"optimal_return({task}) is {best}; it is a finite number")
        base = family.random_return
        _require(
            family.has_optimum or (best, base) == (1, 0),
            f"has_optimum is False, so that returns stay as they are, but optimal_return({task}) is {best:g} "
            f"and random_return {base:g}; they are 1 and 0 then",
        )
        _require(
            best > base,
            f"optimal_return({task}) is {best:g}, not above random_return, the {base:g} that counts as 0 in "
            "reports: no return can be divided by it; define random_return, such as that of random actions, "
            "or leave such tasks out",
        )
    outside = family.config.family_size
    try:
        family.goal(outside)
    except ValueError:
        pass
    else:
        raise _Fault(
            f"goal({outside}) raises no ValueError, although ids end at {outside - 1}; call "
            "self._check_id(task_id) first"
        )
    return f"{len(family.task_ids)} of {outside} in use; {len(named)} were looked at"


def _split(family: AnyFamily, env: EnvConfig) -> str:
    split = split_tasks(env)
    parts = [*split.train, *split.validation, *split.heldout]
    _require(
        sorted(parts) == sorted(family.task_ids),
        "training, validation and held-out tasks together are not every task in use once; see shuffled()",
    )
    _require(split == split_tasks(env), "another call splits the tasks differently; see shuffled()")
    return f"{len(split.train)} training, {len(split.validation)} validation, {len(split.heldout)} held-out"


def _environments(family: AnyFamily, copies: int = _COPIES) -> tuple[np.ndarray, Keys]:
    tasks = np.repeat(np.array(_some_tasks(family), dtype=np.int64), copies)
    return tasks, noise_keys("doctor", 0, tasks, np.arange(len(tasks)))


Played = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Observations (steps + 1, B, fields), rewards (steps, B), and 0, 1, 2: not over, terminated, truncated."""


def _play(family: AnyFamily, tasks: np.ndarray, keys: Keys, actions: np.ndarray) -> Played:
    """Take ``actions`` (steps, B); what is seen and given is checked on the way."""
    env, spaces, n = family.environments(tasks, keys), family.spaces, len(tasks)
    observed = _sound(family, env.reset(), n, "at the start")
    seen, given, over = [observed.copy()], [], []
    for step, taken in enumerate(actions):
        where = f"after step {step}"
        goals, kept = env.goals.copy(), observed.copy()
        outcome = env.advance(taken)
        _require(
            np.array_equal(goals, env.goals) and np.array_equal(kept, observed),
            "transition() changes its inputs; work on a copy",
        )
        _sound(family, outcome.after, n, where)
        observed = _sound(family, outcome.observed, n, where)
        reward = outcome.rewards
        _require(
            isinstance(reward, np.ndarray) and reward.shape == (n,) and reward.dtype == np.float32,
            f"{where}: rewards are {_kind(reward)}, not float32 of shape ({n},)",
        )
        _require(bool(np.isfinite(reward).all()), f"{where}: a reward is no finite number")
        if spaces.n_rewards and spaces.reward_values is None:
            wrong = reward[~np.isin(reward, np.arange(spaces.n_rewards))]
            _require(
                not len(wrong),
                f"{where}: a reward is {wrong[0] if len(wrong) else 0}; with n_rewards={spaces.n_rewards} it "
                f"is a whole number from 0 to {spaces.n_rewards - 1}",
            )
        spaces.reward_codes(reward)
        _require(
            outcome.terminated.dtype == bool and outcome.terminated.shape == (n,),
            f"{where}: terminates() gives {_kind(outcome.terminated)}, not bool of shape ({n},)",
        )
        hidden = outcome.hidden
        _require(
            hidden.shape == (n,) and 0 <= hidden.min() <= hidden.max() < family.n_hidden_states,
            f"{where}: the hidden part of the state is outside 0..{family.n_hidden_states - 1}",
        )
        seen.append(observed.copy())
        given.append(reward.copy())
        over.append(outcome.terminated + 2 * outcome.truncated)
    return np.array(seen), np.array(given), np.array(over)


def _kind(value: object) -> str:
    return f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


def _sound(family: AnyFamily, states: np.ndarray, n: int, where: str) -> np.ndarray:
    spaces = family.spaces
    _require(
        isinstance(states, np.ndarray) and states.shape == (n, spaces.width),
        f"{where}: observations have shape {np.shape(states)}, not (environments, numbers) = "
        f"({n}, {spaces.width})",
    )
    kind = "float32" if spaces.n_reals else "int64"
    _require(states.dtype == kind, f"{where}: observations are {states.dtype}, not {kind}")
    _require(bool(np.isfinite(states).all()), f"{where}: an observation is no finite number")
    for index, (name, size) in enumerate(zip(spaces.field_names, spaces.field_sizes, strict=True)):
        low, high = int(states[:, index].min()), int(states[:, index].max())
        value = low if low < 0 else high
        _require(0 <= value < size, f"{where}: field {name} is {value}, outside 0..{size - 1}")
    return states


def _random_actions(family: AnyFamily, n: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, family.spaces.n_actions, (_EPISODES * family.horizon, n))


def _steps(family: AnyFamily) -> str:
    tasks, keys = _environments(family)
    _, given, over = _play(family, tasks, keys, _random_actions(family, len(tasks)))
    words = f"{len(given)} random actions in {len(tasks)} environments: shapes, types, ranges hold"
    if family.ends_early:
        words += f"; {(over == 1).sum()} episodes terminated, {(over == 2).sum()} truncated"
    return words


def _same_again(family: AnyFamily) -> str:
    tasks, keys = _environments(family)
    actions = _random_actions(family, len(tasks))
    once, again = (_play(family, tasks, keys, actions) for _ in range(2))
    _require(
        all(np.array_equal(a, b) for a, b in zip(once, again, strict=True)),
        "the same keys and actions give other observations or rewards the second time; chance may only come "
        "from transition()'s noise (is_random)",
    )
    return "the same keys and actions give the same episodes"


def _batch_is_its_singles(family: AnyFamily) -> str:
    tasks, keys = _environments(family)
    actions = _random_actions(family, len(tasks))
    together = _play(family, tasks, keys, actions)
    for i in range(len(tasks)):
        part = slice(i, i + 1)
        alone = _play(family, tasks[part], keys[part], actions[..., part])
        _require(
            all(np.array_equal(many[:, part], one) for many, one in zip(together, alone, strict=True)),
            f"task {tasks[i]} gives other observations or rewards alone than in a batch; does transition() "
            "mix its rows?",
        )
    return f"{len(tasks)} environments in one batch are as each of them alone"


def _tables(family: AnyFamily) -> str:
    """Roll-outs look transitions up in tables where they can: those are the rules."""
    unique = _some_tasks(family)
    tables = make_tables(family, unique)
    if tables is None:
        return "none: roll-outs step on the host"
    if tables.cuts is not None:
        _cuts_are_exact(family)
    tasks, keys = _environments(family)
    numbers = np.arange(len(unique)).repeat(len(tasks) // len(unique))
    env = TabledEnv(family, tables, numbers, family.goals(tasks), keys, torch.device("cpu"))
    actions = _random_actions(family, len(tasks))
    seen, given, _ = _play(family, tasks, keys, actions)
    observed = [env.begin(0)[1]]
    for step, taken in enumerate(actions):
        after, rewards = env.step(torch.from_numpy(taken))
        episode, left = divmod(step + 1, family.horizon)
        observed.append(after if left else env.begin(episode)[1])
        _require(
            np.array_equal(rewards.numpy(), given[step])
            and np.array_equal(observed[-1].numpy(), seen[step + 1]),
            f"after step {step}: tables of transition() lead elsewhere than transition(); does it depend on "
            "more than goal, state, action and noise, or does noise make a difference elsewhere than at "
            "noise_cuts()?",
        )
    return f"{len(tables.rewards)} transitions: roll-outs step on their model's device"


def _cuts_are_exact(family: AnyFamily) -> None:
    """In all states of an episode of random actions, whatever the next action is."""
    A = family.spaces.n_actions
    tasks, keys = _environments(family)
    env, every = family.environments(tasks, keys), np.tile(np.arange(A), len(tasks))
    states = env.reset()
    for taken in _random_actions(family, len(tasks))[: family.horizon]:
        _require_exact_cuts(
            family, env.goals.repeat(A, axis=0), states.repeat(A, axis=0), env.hidden.repeat(A), every
        )
        states = env.advance(taken).after


def _require_exact_cuts(
    family: AnyFamily, goals: IntArray, states: IntArray, hidden: IntArray, actions: IntArray
) -> None:
    """Just below each of ``noise_cuts``, and halfway to it, is as right after the one before."""
    cuts = family.noise_cuts(goals, states, hidden, actions)
    assert cuts is not None
    low = np.concatenate([np.zeros((len(cuts), 1)), cuts], axis=1)
    high = np.nextafter(np.concatenate([cuts, np.ones((len(cuts), 1))], axis=1), -1)
    for begin, end in zip(low.T, high.T, strict=True):
        some = (begin <= end) & (end < 1)
        for noise in (end, (begin + end) / 2):
            first, other = (
                np.column_stack(
                    family.transition(goals[some], states[some], hidden[some], actions[some], drawn[some])
                )
                for drawn in (begin, noise)
            )
            _require(
                np.array_equal(first, other),
                "noise between two of noise_cuts() makes a difference; see cad.envs.noise.smallest_reaching",
            )


def _optimum(family: AnyFamily) -> str:
    """Neither chance nor the optimal policy earns more than the optimum, and the policy earns that much."""
    if not (family.has_rules and family.has_optimum):
        return f"unknown; reports divide returns by {family.score_in_words}"
    copies = _RANDOM_COPIES if family.is_random else _COPIES
    tasks, keys = _environments(family, copies)
    for policy in ("random actions", "optimal_actions()"):
        env, rng = family.environments(tasks, keys), np.random.default_rng(0)
        env.reset()
        best = np.array([family.optimal_return(int(task)) for task in tasks])
        if family.n_facts > 1:
            best = family.episode_optimum(env.goals, env.facts).astype(np.float64)
        returns, playing = np.zeros(len(tasks)), np.ones(len(tasks), dtype=bool)
        for _ in range(family.horizon):
            drawn = rng.integers(0, family.spaces.n_actions, len(tasks))
            actions = drawn if policy == "random actions" else env.optimal_actions()
            _require(
                0 <= actions.min() <= actions.max() < family.spaces.n_actions,
                f"{policy} leave 0..{family.spaces.n_actions - 1}",
            )
            outcome = env.advance(actions)
            returns += outcome.rewards * playing
            playing &= ~(outcome.terminated | outcome.truncated)
        by_task, best = returns.reshape(-1, copies), best.reshape(-1, copies)
        error = 0 * returns.reshape(-1, copies)
        if family.is_random:  # the optimum is a mean
            error = np.maximum(by_task.std(axis=1, keepdims=True) / copies**0.5, 1e-9) * _STANDARD_ERRORS
            by_task = by_task.mean(axis=1, keepdims=True)
            best = best.mean(axis=1, keepdims=True)
        over, under = by_task > best + error + 1e-6, by_task < best - error - 1e-6
        for wrong, words in ((over, "more"), (under if policy != "random actions" else over, "less")):
            if wrong.any():
                row, column = np.argwhere(wrong)[0]
                raise _Fault(
                    f"task {tasks[row * copies]}: {policy} return {by_task[row, column]:g}, {words} than the "
                    f"optimum of {best[row, column]:g}; correct optimal_return() or optimal_actions()"
                )
    return "random actions do not exceed it, optimal actions reach it"
