"""Verify a histories file by replaying it: every transition is derived again from the rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cad.config import FileConfig, SourceConfig
from cad.envs.arrays import FloatArray, IntArray, NoiseArray
from cad.envs.config import EnvConfig
from cad.envs.family import AnyFamily
from cad.envs.registry import task_family
from cad.envs.split import Split, split_tasks
from cad.envs.transitions import Transitions
from cad.errors import CadError
from cad.histories.episodes import whole_episodes
from cad.histories.file import DATASETS, Histories, open_histories, task_name
from cad.histories.streams import episode_facts, stream_keys, stream_noise
from cad.storage import UnreadableError

# Gain of the mean return, as a share of the optimum, below which nothing has been learned.
_LEAST_GAIN = 0.05
# A single task whose agent ends below this share of its optimum is worth a warning.
_WEAK_TASK = 0.5


@dataclass(frozen=True)
class TaskRow:
    """One line of the audit's table."""

    task_id: int
    description: str
    part: str
    """train, validation or heldout."""

    optimal_return: float
    first_return: float
    """Mean over streams of the first episode's return."""

    last_return: float
    """Mean over streams of the last episode's return."""


@dataclass
class AuditReport:
    """What the audit found; the file is sound when there are no problems."""

    path: Path
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    table: list[TaskRow] = field(default_factory=list)
    transitions: int = 0
    """Transitions that were looked at."""
    replayed: bool = True
    """Whether they were derived again from the rules."""
    best_in_words: str = "optimum"
    """What :attr:`TaskRow.optimal_return` is called; empty where no optimum is known."""

    @property
    def ok(self) -> bool:
        """Whether the file may be trained on."""
        return not self.problems


def audit(
    path: Path,
    *,
    env: EnvConfig | None = None,
    stage: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AuditReport:
    """Check a histories file against the rules of its tasks, its own settings, and ``env``.

    Args:
        path: the HDF5 file.
        env: what the file is wanted for; default: what it says of itself.
        stage: whose file it has to be, if it says so.
        progress: called with (tasks checked, all tasks).

    A damaged file is a problem in the report, not an exception.  Raises
    :class:`~cad.storage.UnreadableError` for a file that the system does not let be read.
    """
    report = AuditReport(path)
    try:
        with open_histories(path, stage) as histories:
            _audit_open(histories, env or histories.provenance.env, report, progress)
    except UnreadableError:
        raise
    except CadError as error:
        report.problems.append(str(error))
    return report


def require_sound(path: Path, env: EnvConfig, stage: str | None = None) -> None:
    """Raise :class:`CadError` with the first problems unless the audit of ``path`` finds none."""
    report = audit(path, env=env, stage=stage)
    if report.ok:
        return
    shown = report.problems[:5]
    if len(report.problems) > len(shown):
        shown.append(
            f"... and {len(report.problems) - len(shown)} more ('cad histories audit {path}' lists them)"
        )
    raise CadError(
        f"{path} fails its audit and is not trained on ('cad repair {path.parent}' sets it aside, and the "
        "next run collects again):\n  " + "\n  ".join(shown)
    )


def _audit_open(
    histories: Histories, env: EnvConfig, report: AuditReport, progress: Callable[[int, int], None] | None
) -> None:
    stored, wanted = histories.provenance.env.rules, env.rules
    report.problems.extend(
        f"the file was made with env.{key}={stored.get(key)}, the config wants {wanted.get(key)}"
        for key in {**wanted, **stored}
        if stored.get(key) != wanted.get(key)
    )
    if report.problems:
        return  # other rules: every transition would look wrong
    family, split = task_family(env), split_tasks(env)
    report.best_in_words = family.best_in_words
    report.replayed = _can_derive(family, histories.provenance.source)
    _check_split(histories, split, report)
    missing = sorted(set(family.task_ids) - set(histories.task_ids))
    extra = sorted(set(histories.task_ids) - set(family.task_ids))
    if missing:
        report.problems.append(f"{len(missing)} tasks are missing: {_some(missing)}")
    if extra:
        report.problems.append(f"{len(extra)} tasks do not belong to the config: {_some(extra)}")
    parts = {task: part.name for part in fields(Split) for task in getattr(split, part.name)}
    checked = [task for task in histories.task_ids if task in parts]
    for count, task_id in enumerate(checked, start=1):
        try:
            _check_task(histories, family, task_id, parts[task_id], report)
        except UnreadableError:
            raise
        except CadError as error:
            report.problems.append(str(error))
        if progress:
            progress(count, len(checked))
    imported = isinstance(histories.provenance.source, FileConfig)
    if imported and family.has_rules and not _can_derive(family, histories.provenance.source):
        report.warnings.append(
            f"the histories were imported, and what chance decided in tasks of env.name={family.name} is not "
            "known: checked were shapes, ranges, episode flags and equal streams, not whether next states "
            "and rewards are the task's"
        )
    if not family.has_rules:
        report.warnings.append(
            f"env.name={family.name} has no rules to derive transitions from: checked were shapes, ranges, "
            "finite numbers, episode flags and equal streams, not whether next states and rewards are the "
            "task's"
        )
    if not family.has_optimum and (
        family.random_return or any(row.optimal_return != 1 for row in report.table)
    ):
        report.problems.append(
            f"env.name={family.name} says that no optimum is known (has_optimum), but returns would not stay "
            "as they are: its optimal_return has to be 1 and its random_return 0"
        )
    if family.has_optimum:
        # What others recorded need not have learned: it can be trained on all the same.
        check_learning(report, family, report.warnings if imported else report.problems)


def _can_derive(family: AnyFamily, source: SourceConfig) -> bool:
    """Whether the family's rules give transitions again: chance in them follows from our keys alone."""
    chance = family.is_random or family.n_facts > 1
    return family.has_rules and not (chance and isinstance(source, FileConfig))


def _check_split(histories: Histories, split: Split, report: AuditReport) -> None:
    for part in fields(Split):
        recorded = getattr(histories.provenance.split, part.name)
        wanted = getattr(split, part.name)
        if recorded != wanted:
            changed = sorted(set(recorded) ^ set(wanted))
            report.problems.append(
                f"the split's {part.name} tasks differ from the config's: file {_some(recorded)}, "
                f"config {_some(wanted)}"
                + (f"; in one only: {_some(changed)}" if changed else "; other order")
            )


def _check_task(
    histories: Histories, family: AnyFamily, task_id: int, part: str, report: AuditReport
) -> None:
    attributes = histories.attributes(task_id)
    for name, wanted in (
        ("task_id", task_id),
        ("goal", family.goal(task_id)),
        ("optimal_return", family.optimal_return(task_id)),
    ):
        recorded: Any = attributes.get(name)
        if recorded is None or not np.array_equal(np.asarray(recorded), np.asarray(wanted)):
            report.problems.append(
                f"{task_name(task_id)}: attribute {name} is {recorded}, it must be {wanted}"
            )
    history = histories.task(task_id)
    source = histories.provenance.source
    shape = (source.n_streams, source.steps_per_stream)
    whole = True
    if family.ends_early and history.terminations is None:
        report.problems.append(f"{task_name(task_id)}: the dataset terminations is missing")
        return
    for name in (*DATASETS, *(["terminations"] if family.ends_early else [])):
        array = getattr(history, name)
        expected = (*shape, family.spaces.width) if name.endswith("states") else shape
        kind = _types(family).get(name, "uint8")
        if array.dtype != kind or array.shape != expected:
            whole = False
            report.problems.append(
                f"{task_name(task_id)}/{name} is {array.dtype} of shape {array.shape}; "
                f"{shape[0]} streams of {shape[1]} steps need {kind} of shape {expected}"
            )
    if not whole:
        return
    faults = _Faults(f"task {task_id} ({family.describe(task_id)})", report.problems)
    if family.ends_early:
        if _can_derive(family, source):
            _check_replay(family, task_id, history, source, faults)
        else:
            _check_what_shows(family, history, faults)
        returns = whole_episodes(history.rewards, history.episode_ends).mean(axis=0)
        if not len(returns):
            report.problems.append(f"{faults.where}: a stream has no whole episode; collect more steps")
            return
    elif shape[1] % family.horizon:
        report.problems.append(
            f"{task_name(task_id)}: {shape[1]} steps are no whole number of episodes of {family.horizon}"
        )
        return
    elif not _can_derive(family, source):
        _check_ends(family, history, faults)
        _check_what_shows(family, history, faults)
        returns = history.rewards.reshape(shape[0], -1, family.horizon).sum(axis=2).mean(axis=0)
    else:
        starts, hidden = _episode_starts(family, task_id, source, shape[1] // family.horizon)
        noise = stream_noise(task_id, source) if family.is_random else None
        _check_transitions(family, task_id, history, starts, hidden, noise, faults)
        returns = history.rewards.reshape(shape[0], -1, family.horizon).sum(axis=2).mean(axis=0)
    report.transitions += shape[0] * shape[1]
    report.table.append(
        TaskRow(
            task_id,
            family.describe(task_id),
            part,
            family.optimal_return(task_id),
            first_return=float(returns[0]),
            last_return=float(returns[-1]),
        )
    )


@dataclass(frozen=True)
class _Faults:
    """Turns places where two arrays differ into one sentence."""

    where: str
    problems: list[str]

    def compare(self, what: str, recorded: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> None:
        """Report where (streams, steps[, 2]) arrays differ: the first place and how many there are."""
        differs = recorded != wanted
        if differs.ndim == 3:
            differs = differs.any(axis=2)
        count = int(differs.sum())
        if count:
            stream, step = (int(index) for index in np.argwhere(differs)[0])
            self.problems.append(
                f"{self.where}, stream {stream}, step {step}: {what} is {_value(recorded[stream, step])}, "
                f"it must be {_value(wanted[stream, step])}" + (f" ({count} such faults in this task)")
            )

    def limit(self, what: str, recorded: npt.NDArray[Any], most: int) -> bool:
        """Report values above ``most``; True when there are none."""
        too_large = recorded > most
        count = int(too_large.sum())
        if count:
            place = np.argwhere(too_large)[0]
            self.problems.append(
                f"{self.where}, stream {place[0]}, step {place[1]}: {what} is {recorded[tuple(place)]}, "
                f"it must be in 0..{most} ({count} such faults in this task)"
            )
        return not count


def _episode_starts(
    family: AnyFamily, task_id: int, source: SourceConfig, episodes: int
) -> tuple[IntArray, IntArray]:
    """First states (streams, episodes, fields) and their hidden part (streams, episodes)."""
    facts = episode_facts(family, task_id, source, episodes)
    goals = _goals(family, task_id, facts.size)
    states, hidden = family.begin(goals, facts.ravel())
    return states.reshape(*facts.shape, -1), hidden.reshape(facts.shape)


def _goals(family: AnyFamily, task_id: int, n: int) -> IntArray:
    """The goal of one task for ``n`` environments."""
    goals = family.goals([task_id])
    return np.broadcast_to(goals, (n, goals.shape[1]))


def _check_ends(family: AnyFamily, history: Transitions, faults: _Faults) -> None:
    """All episodes last ``horizon`` steps."""
    steps = history.actions.shape[1]
    last = np.arange(1, steps + 1) % family.horizon == 0
    ends = np.broadcast_to(last.astype(np.uint8), history.actions.shape)
    faults.compare("episode_ends", history.episode_ends, ends)


def _check_transitions(
    family: AnyFamily,
    task_id: int,
    history: Transitions,
    starts: IntArray,
    hidden: IntArray,
    noise: NoiseArray | None,
    faults: _Faults,
) -> None:
    _check_ends(family, history, faults)
    # The state each step must start from: the start, or where the step before it ended.
    expected = np.empty_like(history.states)
    expected[:, 1:] = history.next_states[:, :-1]
    expected[:, :: family.horizon] = starts
    faults.compare("state", history.states, expected)
    spaces = family.spaces
    in_range = faults.limit("action", history.actions, spaces.n_actions - 1)
    for index, (name, size) in enumerate(zip(spaces.field_names, spaces.field_sizes, strict=True)):
        in_range &= faults.limit(f"a state's {name}", history.states[..., index], size - 1)
    if in_range:
        next_states, rewards = _derive(family, task_id, history, hidden, noise)
        faults.compare("next state", history.next_states, next_states)
        faults.compare("reward", history.rewards, rewards)


def _types(family: AnyFamily) -> dict[str, str]:
    spaces = family.spaces
    seen = spaces.observation_type
    return {"states": seen, "next_states": seen, "actions": spaces.action_type, "rewards": spaces.reward_type}


def _check_what_shows(family: AnyFamily, history: Transitions, faults: _Faults) -> None:
    """What can be told without rules: ranges, finite numbers, where episodes end, streams that are equal."""
    spaces, terminations = family.spaces, history.terminations
    if terminations is None:
        terminations = np.zeros_like(history.episode_ends)
    faults.limit("action", history.actions, spaces.n_actions - 1)
    for index, (name, size) in enumerate(zip(spaces.field_names, spaces.field_sizes, strict=True)):
        faults.limit(f"a state's {name}", history.states[..., index], size - 1)
        faults.limit(f"a next state's {name}", history.next_states[..., index], size - 1)
    for name, array in (("states", history.states), ("next_states", history.next_states)):
        if not np.isfinite(array).all():
            stream, step, column = np.argwhere(~np.isfinite(array))[0]
            what = (*spaces.field_names, *spaces.real_names)[column]
            faults.problems.append(
                f"{faults.where}, stream {stream}, step {step}: {what} in {name} is "
                f"{array[stream, step, column]}"
            )
    if not np.isfinite(history.rewards).all():
        stream, step = np.argwhere(~np.isfinite(history.rewards))[0]
        faults.problems.append(
            f"{faults.where}, stream {stream}, step {step}: the reward is no finite number"
        )
    else:
        spaces.reward_codes(history.rewards)
    faults.compare("terminations", terminations & ~history.episode_ends & 1, np.zeros_like(terminations))
    # Within an episode each step begins where the one before it ended.
    inside = history.episode_ends[:, :-1, None] == 0
    expected = history.states.copy()
    expected[:, 1:] = np.where(inside, history.next_states[:, :-1], history.states[:, 1:])
    faults.compare("state", history.states, expected)
    for stream, ends in enumerate(history.episode_ends):
        longest = int(np.diff(np.flatnonzero(ends), prepend=-1).max(initial=0))
        if longest > family.horizon:
            faults.problems.append(
                f"{faults.where}, stream {stream}: an episode lasts {longest} steps, more than env.horizon="
                f"{family.horizon}"
            )
    every = np.concatenate([history.actions, history.rewards], axis=1)
    twice = len(every) - len(np.unique(every, axis=0))
    if twice:
        faults.problems.append(f"{faults.where}: {twice} streams equal another one, action by action")


def _check_replay(
    family: AnyFamily, task_id: int, history: Transitions, source: SourceConfig, faults: _Faults
) -> None:
    """Play the actions again, step by step: episodes that end early begin wherever the rules say.

    After a stream's first fault the rest of it is not compared: it follows from that fault.
    """
    if not faults.limit("action", history.actions, family.spaces.n_actions - 1):
        return
    streams, steps = history.actions.shape
    env = family.environments(np.full(streams, task_id), stream_keys(source, task_id), source.loads)
    wanted = {name: np.empty_like(getattr(history, name)) for name in (*DATASETS, "terminations")}
    wanted["actions"] = history.actions
    observed = env.reset()
    for step in range(steps):
        wanted["states"][:, step] = observed
        outcome = env.advance(history.actions[:, step].astype(np.int64))
        observed = outcome.observed
        wanted["next_states"][:, step] = outcome.after
        wanted["rewards"][:, step] = outcome.rewards
        wanted["terminations"][:, step] = outcome.terminated
        wanted["episode_ends"][:, step] = outcome.terminated | outcome.truncated
    differs = np.zeros((streams, steps), dtype=bool)
    for name, array in wanted.items():
        other = getattr(history, name) != array
        differs |= other.any(axis=2) if other.ndim == 3 else other
    compared = differs.cumsum(axis=1) <= differs  # up to and with the first fault
    for name, array in wanted.items():
        recorded = getattr(history, name)
        mask = compared[..., None] if recorded.ndim == 3 else compared
        faults.compare(_WORDS.get(name, name), recorded, np.where(mask, array, recorded))


_WORDS = {"states": "state", "next_states": "next state", "rewards": "reward"}


def _derive(
    family: AnyFamily, task_id: int, history: Transitions, hidden: IntArray, noise: NoiseArray | None
) -> tuple[npt.NDArray[Any], FloatArray]:
    """Next states (streams, steps, fields) and rewards (streams, steps) by the rules.

    All episodes side by side, so that the Python loop is only as long as one episode (the hidden
    part of the state has to be carried through it).
    """
    streams, steps = history.actions.shape
    episodes, horizon = streams * steps // family.horizon, family.horizon
    states = history.states.reshape(episodes, horizon, -1)
    actions = history.actions.reshape(episodes, horizon)
    goals = _goals(family, task_id, episodes)
    kind = np.float32 if family.spaces.n_reals else np.int64  # what environments step with
    next_states = np.empty(states.shape, dtype=kind)
    rewards = np.empty((episodes, horizon), dtype=np.float32)
    hidden = hidden.ravel()
    by_step = [None] * horizon if noise is None else noise.reshape(episodes, horizon).T
    for step in range(horizon):
        next_states[:, step], rewards[:, step], hidden = family.transition(
            goals, states[:, step].astype(kind), hidden, actions[:, step].astype(np.int64), by_step[step]
        )
    return next_states.reshape(streams, steps, -1), rewards.reshape(streams, steps)


def check_learning(report: AuditReport, family: AnyFamily, found: list[str]) -> None:
    """Note in ``found`` that the agents of all tasks together did not learn; warn of single weak tasks.

    That a task which models are scored on has no optimum above ``random_return`` is a problem of the file.
    """
    base = family.random_return
    rows = [row for row in report.table if row.optimal_return > base]
    worthless = [row for row in report.table if row not in rows and row.part != "train"]
    if worthless:  # reports and the validation divide by it
        report.problems.append(
            f"the optimum of task {worthless[0].task_id} is {worthless[0].optimal_return:g}, not above the "
            f"{base:g} that counts as 0 (the family's random_return), so that no return can be divided by it "
            f"({len(worthless)} such tasks)"
        )
        return
    if not rows:
        return
    optima = [row.optimal_return for row in rows]
    scores = family.score([row.last_return for row in rows], optima)
    first = float(family.score([row.first_return for row in rows], optima).mean())
    last = float(scores.mean())
    if first > 1 - _LEAST_GAIN:
        report.warnings.append(
            f"the source agents return {first:.2f} of {family.score_in_words} in the first episode: these "
            "histories show what to remember, but no learning; a model of them is no algorithm distillation"
        )
    elif last - first < _LEAST_GAIN:
        found.append(
            f"the source agents did not learn: mean return {last:.2f} of {family.score_in_words} in the last "
            f"episode, {first:.2f} in the first; collect with more steps or other source settings"
        )
    report.warnings.extend(
        f"task {row.task_id} ({row.description}): the last episode returns {row.last_return:.2f} of "
        f"{row.optimal_return:g}; its source agent learned little"
        for row, score in zip(rows, scores, strict=True)
        if score < _WEAK_TASK
    )


def _value(value: npt.NDArray[Any]) -> str:
    return (
        f"({', '.join(map(_number, value))}{',' * (len(value) == 1)})" if np.ndim(value) else _number(value)
    )


def _number(value: Any) -> str:
    """All digits that tell a float of 32 bits from the next one; none after the point of a whole number."""
    return np.format_float_positional(np.float32(value), trim="-") if value % 1 else str(int(value))


def _some(ids: tuple[int, ...] | list[int]) -> str:
    shown = ", ".join(str(task) for task in ids[:8])
    return f"[{shown}{', ...' if len(ids) > 8 else ''}]"
