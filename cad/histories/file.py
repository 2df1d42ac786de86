"""The learning histories' file: one HDF5 group a task, small integers, attributes that describe them.

Layout (schema version 1)::

    /                       attributes: schema_version, created_by, seed,
                            env, source, split, versions (JSON texts); stage, if one wrote it
    /task_00040             attributes: task_id, goal, optimal_return; larger types than uint8 where values
                            need them, float32 where there are floats (after the fields, in states)
        states              (streams, steps, fields) uint8   observation before the step: row and column, ...
        actions             (streams, steps)         uint8   below the family's number of actions
        rewards             (streams, steps)         uint8   whole numbers
        next_states         (streams, steps, fields) uint8   true observation after the step
        episode_ends        (streams, steps)         uint8   1 at the last step of an episode
        terminations        (streams, steps)         uint8   1 where the task ended it, not the time limit;
                                                             only where episodes may end early

A stream is one unbroken history: its episodes follow each other along ``steps``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from cad.checksums import DamagedFileError, require_file
from cad.config import SourceConfig, source_config
from cad.envs.config import EnvConfig
from cad.envs.registry import env_config
from cad.envs.split import Split
from cad.envs.transitions import Array, Transitions
from cad.errors import CadError, UsageError, first_line, printable
from cad.hdf5 import UNREADABLE, open_hdf5, require_owner, unreadable
from cad.storage import given_path

SCHEMA_VERSION = 1
DATASETS = tuple(field.name for field in fields(Transitions) if field.default is MISSING)
"""What every file has; ``terminations`` only where episodes may end early."""
# Level 1 is quick to write and not much larger than level 9.
_COMPRESSION: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
_REMEDY = (
    "if it belongs to a stage, 'cad repair' with the stage's directory sets it aside and the next run "
    "makes it again; else get another copy of it"
)
_JSON_ATTRIBUTES = ("env", "source", "split", "versions")


@dataclass(frozen=True)
class Provenance:
    """Where a file's histories come from."""

    env: EnvConfig
    source: SourceConfig
    split: Split
    versions: Mapping[str, str]
    """Version of each package that the numbers depend on."""

    created_by: str


def task_name(task_id: int) -> str:
    """Name of a task's group."""
    return f"task_{task_id:05d}"


def require_version(path: Path, version: object) -> None:
    """Raise :class:`CadError` for a file of another version of the layout."""
    if version != SCHEMA_VERSION:
        raise CadError(
            f"{path} has schema version {version}, this program reads {SCHEMA_VERSION}; "
            "use the program's version that wrote it"
        )


def write_root(file: h5py.File, provenance: Provenance, stage: str | None = None) -> None:
    """Write the root's attributes; ``stage`` is the name of the stage whose file it is."""
    if stage is not None:
        file.attrs["stage"] = stage
    file.attrs["schema_version"] = SCHEMA_VERSION
    file.attrs["created_by"] = provenance.created_by
    file.attrs["seed"] = provenance.source.seed
    split = {part.name: list(getattr(provenance.split, part.name)) for part in fields(Split)}
    for name, value in (
        ("env", provenance.env.model_dump()),
        ("source", provenance.source.identity),
        ("split", split),
        ("versions", dict(provenance.versions)),
    ):
        file.attrs[name] = json.dumps(value, sort_keys=True)


def write_task(
    file: h5py.File, task_id: int, goal: tuple[int, ...], optimal_return: float, history: Transitions
) -> None:
    """Write one task's group; the same input gives the same bytes."""
    group = file.create_group(task_name(task_id), track_order=False)
    group.attrs["task_id"] = task_id
    group.attrs["goal"] = np.array(goal, dtype=np.int64)
    group.attrs["optimal_return"] = optimal_return
    for name in (field.name for field in fields(Transitions)):
        array: Array | None = getattr(history, name)
        if array is None:
            continue
        # One chunk a task would be simplest; ten streams a chunk let a reader take one stream cheaply.
        chunks = (min(10, array.shape[0]), *array.shape[1:])
        group.create_dataset(name, data=array, **_COMPRESSION, chunks=chunks)


class Histories:
    """A histories file, open for reading; use as a context manager.

    Attributes:
        path: the file.
        provenance: config, split and versions.
        task_ids: canonical ids of the tasks in the file, ascending.
    """

    def __init__(self, path: str | Path, stage: str | None = None) -> None:
        """Open ``path``; :class:`CadError` when it is missing, damaged, or of another format or stage."""
        self.path = given_path("path", path)
        if stage is not None:
            require_file(self.path, _REMEDY)
        self._file = open_hdf5(self.path, _REMEDY)
        try:
            require_owner(self._file, self.path, stage)
            self.provenance = self._read_root()
            self.task_ids = self._read_task_ids()
        except BaseException:
            self._file.close()
            raise

    def _read_root(self) -> Provenance:
        attributes = self._attributes(self._file)
        version = attributes.get("schema_version")
        if version is None:
            raise CadError(f"{self.path} holds no learning histories (no attribute schema_version)")
        require_version(self.path, version)
        try:
            values = {name: json.loads(str(attributes[name])) for name in _JSON_ATTRIBUTES}
            return Provenance(
                env=env_config(values["env"]),
                source=source_config(values["source"]),
                split=Split(**{part: tuple(map(int, ids)) for part, ids in values["split"].items()}),
                versions=values["versions"],
                created_by=str(attributes["created_by"]),
            )
        except (KeyError, ValueError, TypeError, AttributeError, CadError) as error:
            why = f"its attributes cannot be read: {first_line(error)}"
            raise DamagedFileError(self.path, why, _REMEDY) from error

    def _read_task_ids(self) -> tuple[int, ...]:
        try:
            names = list(self._file)
        except UNREADABLE as error:
            raise unreadable(error, self.path, _REMEDY) from error
        ids = []
        for name in names:
            digits = name.removeprefix("task_")
            if not (digits.isascii() and digits.isdigit()) or task_name(int(digits)) != name:
                raise DamagedFileError(self.path, f"it has a group /{name} that is no task", _REMEDY)
            ids.append(int(digits))
        return tuple(sorted(ids))

    def _attributes(self, item: h5py.Group) -> dict[str, Any]:
        try:
            return dict(item.attrs)
        except UNREADABLE as error:
            raise unreadable(error, self.path, _REMEDY) from error

    def attributes(self, task_id: int) -> dict[str, Any]:
        """Attributes of a task's group: task_id, goal, optimal_return."""
        return self._attributes(self._group(task_id))

    def dataset(self, task_id: int, name: str) -> npt.NDArray[Any]:
        """One dataset of a task, whole; :class:`CadError` names it when it is missing or damaged."""
        group = self._group(task_id)
        try:
            array: npt.NDArray[Any] = group[name][()]
        except UNREADABLE as error:
            what = f"/{task_name(task_id)}/{name} is missing or damaged: "
            raise unreadable(error, self.path, _REMEDY, what) from error
        return array

    def task(self, task_id: int) -> Transitions:
        """All streams of one task."""
        more = ["terminations"] if "terminations" in self._group(task_id) else []
        return Transitions(**{name: self.dataset(task_id, name) for name in [*DATASETS, *more]})

    def _group(self, task_id: int) -> h5py.Group:
        if task_id not in self.task_ids:
            has = printable(", ".join(map(str, self.task_ids)), 80)
            raise UsageError(f"{self.path} has no task {printable(repr(task_id), 40)}; it has {has}")
        name = task_name(task_id)
        try:
            return self._file[name]
        except UNREADABLE as error:
            raise unreadable(error, self.path, _REMEDY) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Histories:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_histories(path: str | Path, stage: str | None = None) -> Histories:
    """Open a histories file for reading; see :class:`Histories` for what is refused, and how.

    With ``stage``, a file that names another stage as its own is refused.
    """
    return Histories(path, stage)
