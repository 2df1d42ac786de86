"""Histories that another program wrote: read leniently, checked strictly, kept as a file of ours.

What a file needs is in docs/histories.md: a group a task with ``states``, ``actions``, ``rewards``,
``next_states`` and ``episode_ends``.  Attributes that only we know are not asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from cad import __version__
from cad.config import FileConfig
from cad.envs.config import EnvConfig
from cad.envs.family import AnyFamily
from cad.envs.registry import env_config, task_family
from cad.envs.split import split_tasks
from cad.envs.transitions import Transitions
from cad.errors import CadError, UsageError, first_line
from cad.hdf5 import UNREADABLE, open_hdf5, unreadable
from cad.histories.audit import AuditReport, audit
from cad.histories.file import DATASETS, Histories, Provenance, require_version, write_root, write_task
from cad.storage import atomic_path, sha256_file

Progress = Callable[[int, int], None]
Read = Callable[[int], Transitions]
"""The histories of a task as they were written: shapes and values are not checked yet."""

_MOST_PROBLEMS = 5  # in one message
_REMEDY = "get another copy of it"


def import_file(
    env: EnvConfig,
    source: FileConfig,
    out: Path,
    *,
    progress: Progress | None = None,
    stage: str | None = None,
) -> None:
    """Write the histories of ``source.path`` to ``out``, as a file of ours for the tasks of ``env``.

    Raises :class:`CadError` with the first thing that is wrong: of another environment, a task that is
    missing, a value out of range or not finite, other numbers of streams or steps than ``source`` says.
    """
    path = Path(source.path)
    with open_hdf5(path, _REMEDY) as file:
        write_imported(env, source, out, _tasks(file, path, env), path, progress=progress, stage=stage)


class Imported(NamedTuple):
    """What an import made."""

    source: FileConfig
    """The section ``source`` that trains from it."""

    report: AuditReport
    """Its audit, which is sound; the warnings say what could not be checked."""


def import_hdf5(path: Path, env: EnvConfig | None, out: Path) -> Imported:
    """Import the HDF5 file ``path`` into ``out``.

    ``env`` may be left out where the file says of which it is.
    """
    with open_hdf5(path, _REMEDY) as file:
        if str(file.attrs.get("created_by", "")).startswith("cad "):
            require_version(path, file.attrs.get("schema_version"))
        stated = _stated_env(file, path)
        if env is None:
            if stated is None:
                raise UsageError(f"{path} does not say of which environment it is: {HOW_TO_SAY}")
            from_file = _env(stated, path)
        tasks = _tasks(file, path, env or from_file)
        content = f"{FileConfig.CONTENT[0]}{sha256_file(path)}"
        return write_as_found(env or from_file, out, tasks, path, content)


HOW_TO_SAY = "name a YAML file with a section env, or settings such as env.name=darkroom env.size=9"


def write_as_found(
    env: EnvConfig, out: Path, tasks: Mapping[int, Read], path: Path, content: str
) -> Imported:
    """As :func:`write_imported`, with as many streams and steps as the first task has."""
    needed = _needed(env, tasks, path)
    shape = np.shape(needed[min(needed)](min(needed)).actions)
    if len(shape) != 2 or 0 in shape:
        raise CadError(f"{path}: actions of task {min(needed)} have shape {shape}; it is (streams, steps)")
    source = FileConfig(kind="file", path=content, n_streams=shape[0], steps_per_stream=shape[1])
    report = write_imported(env, source, out, tasks, path)
    return Imported(source.model_copy(update={"path": str(out)}), report)


def write_imported(
    env: EnvConfig,
    source: FileConfig,
    out: Path,
    tasks: Mapping[int, Read],
    path: Path,
    *,
    progress: Progress | None = None,
    stage: str | None = None,
) -> AuditReport:
    """Check the ``tasks`` that ``path`` holds and write them, those of ``env`` alone, to ``out``.

    Raises :class:`CadError` for values that are wrong, and for what the audit finds; nothing is written then.
    """
    family, needed = task_family(env), _needed(env, tasks, path)
    provenance = Provenance(
        env, source, split_tasks(env), {"cad": __version__}, f"cad {__version__}, from {path.name}"
    )
    with atomic_path(out) as temporary:
        try:
            with h5py.File(temporary, "w") as file:
                write_root(file, provenance, stage)
                for count, (task, read) in enumerate(sorted(needed.items())):
                    if progress:
                        progress(count, len(needed))
                    history = fit(read(task), family, source, f"{path}: task {task}")
                    write_task(file, task, family.goal(task), family.optimal_return(task), history)
        except RuntimeError as error:  # HDF5 reports a failed flush so
            raise CadError(f"cannot write {out}: is the disk full? ({error})") from error
        report = audit(temporary, env=env, stage=stage)
        if not report.ok:
            shown = report.problems[:_MOST_PROBLEMS]
            if len(report.problems) > len(shown):
                shown.append(f"... and {len(report.problems) - len(shown)} more")
            raise CadError(f"{path} fails its audit and is not imported:\n  " + "\n  ".join(shown))
    if progress:
        progress(len(needed), len(needed))
    return report


def _needed(env: EnvConfig, tasks: Mapping[int, Read], path: Path) -> dict[int, Read]:
    family = task_family(env)
    missing = [task for task in family.task_ids if task not in tasks]
    foreign = [task for task in tasks if not 0 <= task < env.family_size]
    for what, ids in (
        ("has no histories of", missing),
        ("has histories of tasks that there are not:", foreign),
    ):
        if ids:
            shown = ", ".join(map(str, ids[:8])) + (", ..." if len(ids) > 8 else "")
            raise CadError(f"{path} {what} {len(ids)} tasks of {env.in_words()} ({shown})")
    return {task: tasks[task] for task in family.task_ids}


def fit(raw: Transitions, family: AnyFamily, source: FileConfig, where: str) -> Transitions:
    """Histories of one task in the types of its family; :class:`CadError` for what is not in its spaces."""
    spaces, shape = family.spaces, (source.n_streams, source.steps_per_stream)
    if family.ends_early and raw.terminations is None:
        raise CadError(
            f"{where}: terminations is missing: tasks of {family.name} end episodes; write (streams, steps), "
            "1 where the task did, not the time limit"
        )
    found = np.shape(raw.actions)
    if found != shape and len(found) == 2:
        raise CadError(
            f"{where}: {found[0]} streams of {found[1]} steps; all tasks need as many as the source has: "
            f"source.n_streams={shape[0]}, source.steps_per_stream={shape[1]}"
        )
    checked = {}
    for field in fields(Transitions):
        name, array = field.name, getattr(raw, field.name)
        if array is None:
            continue
        wide = name.endswith("states")
        wanted = (*shape, spaces.width) if wide else shape
        values = np.asarray(array)
        if values.shape != wanted or values.dtype.kind not in "buif":
            raise CadError(
                f"{where}: {name} is {values.dtype} of shape {values.shape}; numbers of shape {wanted}"
            )
        at = _Values(where, name, values)
        at.require(np.isfinite(values), "it has to be a finite number")
        if wide:
            for index, (label, size) in enumerate(zip(spaces.field_names, spaces.field_sizes, strict=True)):
                at.require_below(values[..., index], size, label)
        elif name == "rewards":
            if spaces.n_rewards and spaces.reward_values is None:
                at.require_below(values, spaces.n_rewards)
            else:
                spaces.reward_codes(values.astype(np.float32))
        else:
            at.require_below(values, spaces.n_actions if name == "actions" else 2)
        kind = {"actions": spaces.action_type, "rewards": spaces.reward_type}.get(name, "uint8")
        checked[name] = values.astype(spaces.observation_type if wide else kind)
    if (terminations := checked.get("terminations")) is not None:
        at = _Values(where, "terminations", terminations)
        at.require((terminations == 0) | (checked["episode_ends"] == 1), "the episode does not end there")
        if not family.ends_early:
            at.require(terminations == 0, f"tasks of {family.name} end no episode")
            del checked["terminations"]
    return Transitions(**checked)


class _Values:
    """One dataset of a task; names the first value that is wrong."""

    def __init__(self, where: str, name: str, values: npt.NDArray[Any]) -> None:
        self._where, self._name, self._values = where, name, values

    def require(self, right: npt.NDArray[np.bool_], what: str, label: str = "", among: Any = None) -> None:
        """Raise :class:`CadError` with the first value, ``among`` all, that is not ``right``."""
        if right.all():
            return
        place = np.argwhere(~right)[0]
        value = (self._values if among is None else among)[tuple(place)]
        shown = f"{float(value):g}" if np.ndim(value) == 0 else value.tolist()
        count = int((~right).sum())
        raise CadError(
            f"{self._where}, stream {place[0]}, step {place[1]}: {self._name}{label} is {shown}; {what}"
            f" ({count} such values)"
        )

    def require_below(self, values: npt.NDArray[Any], n: int, label: str = "") -> None:
        """Values are whole numbers from 0 to ``n`` - 1."""
        right = (values >= 0) & (values < n) & (values == np.floor(values))
        self.require(right, f"it has to be in 0..{n - 1}", f" ({label})" if label else "", values)


# HDF5 of the documented layout -----------------------------------------------------------------


def _tasks(file: h5py.File, path: Path, env: EnvConfig) -> dict[int, Read]:
    """The tasks of an open file; :class:`CadError` where it says that it is of another environment."""
    stated = _stated_env(file, path)
    if stated is not None:
        theirs, ours = _env(stated, path).rules, env.rules
        for key in {**ours, **theirs}:
            if theirs.get(key) != ours.get(key):
                raise CadError(
                    f"{path} is of another environment: env.{key} is {theirs.get(key)} there, "
                    f"{ours.get(key)} is wanted"
                )
    try:
        names = [name for name in file if isinstance(file[name], h5py.Group)]
    except UNREADABLE as error:
        raise unreadable(error, path, _REMEDY) from error
    tasks: dict[int, Read] = {}
    family = task_family(env)
    named: dict[int, str] = {}
    for name in names:
        found = re.fullmatch(r"task_([0-9]+)", name)
        if found is None:
            raise CadError(f"{path}: group /{name} is no task; name groups task_00000, task_00001, ...")
        task = int(found[1])
        if task in named:
            raise CadError(f"{path}: groups /{named[task]} and /{name} are both task {task}")
        named[task] = name
        tasks[task] = _reader(file[name], path, family)
    if not tasks:
        raise CadError(
            f"{path} has no groups task_00000, task_00001, ...: docs/histories.md describes the file"
        )
    return tasks


def _reader(group: h5py.Group, path: Path, family: AnyFamily) -> Read:
    def read(task: int) -> Transitions:
        try:
            goal = group.attrs.get("goal")
            stated = None if goal is None else tuple(np.ravel(goal).tolist())
        except UNREADABLE as error:
            raise unreadable(error, path, _REMEDY) from error
        if stated is not None and stated != family.goal(task):
            raise CadError(
                f"{path}: the goal of task {task} is {stated} there; that of "
                f"{family.describe(task)} is {family.goal(task)}: it is of another environment"
            )
        try:
            missing = [name for name in DATASETS if name not in group]
            if missing:
                raise CadError(f"{path}: /{group.name.strip('/')} has no dataset {' and '.join(missing)}")
            more = ["terminations"] if "terminations" in group else []
            return Transitions(**{name: group[name][()] for name in [*DATASETS, *more]})
        except UNREADABLE as error:
            raise unreadable(error, path, _REMEDY) from error

    return read


def _stated_env(file: h5py.File, path: Path) -> Any:
    try:
        text = file.attrs.get("env")
        return None if text is None else json.loads(str(text))
    except (*UNREADABLE, ValueError) as error:
        raise CadError(f"{path}: its attribute env is no JSON: {first_line(error)}") from error


def _env(stated: Any, path: Path) -> EnvConfig:
    try:
        return env_config(stated)
    except ValueError as error:
        raise CadError(f"{path}: its attribute env is no section env: {first_line(error)}") from error


def export_hdf5(histories: Histories, out: Path) -> int:
    """Write a file of ours for others: the documented layout, without what ties it to a stage; its tasks."""
    provenance = histories.provenance
    with atomic_path(out) as temporary, h5py.File(temporary, "w") as file:
        write_root(file, provenance)
        family = task_family(provenance.env)
        for task in histories.task_ids:
            write_task(file, task, family.goal(task), family.optimal_return(task), histories.task(task))
    return len(histories.task_ids)
