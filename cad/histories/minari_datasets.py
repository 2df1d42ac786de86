"""Minari datasets to histories and back, through the ``minari`` package.

A dataset holds episodes.  Ours have the metadata ``task_id`` and ``stream``; episodes of one stream follow
each other in the order of their ids.  Nothing is downloaded: datasets are folders.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from cad.config import FileConfig
from cad.envs.config import EnvConfig
from cad.envs.family import AnyFamily
from cad.envs.foreign import same_actions, same_numbers
from cad.envs.registry import env_config, task_family
from cad.envs.transitions import Transitions
from cad.errors import CadError, UsageError, first_line
from cad.histories.file import Histories
from cad.histories.imported import Imported, Read, write_as_found
from cad.storage import atomic_dir

_ENV = "cad_env"  # our section env, in a dataset's metadata
_TASK, _STREAM = "task_id", "stream"  # metadata of an episode


def _minari() -> Any:
    try:
        import_module("minari.data_collector.episode_buffer")
        return import_module("minari")
    except ImportError as error:
        raise CadError("Minari datasets need the package minari: pip install 'cad[minari]'") from error


def _datasets(path: Path) -> dict[int | None, Path]:
    """The data folders at ``path``: of one dataset (None), or of one a task by its id."""
    for folder in (path / "data", path):
        if (folder / "metadata.json").exists():
            return {None: folder}
    found: dict[int | None, Path] = {}
    for folder in sorted(path.iterdir()):
        digits = re.fullmatch(r"(?:.*?\D)??(\d+)(?:-v\d+)?", folder.name)
        if (folder / "data/metadata.json").exists() and digits:
            task = int(digits[1])
            if task in found:
                raise CadError(f"{path}: {found[task].parent.name} and {folder.name} are both of task {task}")
            found[task] = folder / "data"
    if not found:
        raise CadError(
            f"{path} holds no Minari dataset (data/metadata.json), nor one a task in folders such as "
            "task-3-v0"
        )
    return found


def import_minari(path: Path, env: EnvConfig | None, out: Path) -> Imported:
    """Import a Minari dataset, or a folder of one a task, into the histories file ``out``.

    ``env`` may be left out where
    the dataset is one of ours.  Streams are cut to the length of the shortest one.  Raises
    :class:`CadError` for datasets of another environment, and for what :func:`~cad.histories.imported.fit`
    refuses.
    """
    package = _minari()
    streams: dict[int, dict[int, list[Any]]] = {}
    name = ""
    for task, folder in _datasets(path).items():
        try:
            dataset = package.MinariDataset(folder)
        except Exception as error:  # code of others may raise anything
            raise CadError(f"{folder} cannot be read as a Minari dataset: {first_line(error)}") from error
        name = name or dataset.id
        env = _require_same_env(dataset, env, path)
        _require_same_spaces(dataset, task_family(env), path)
        try:
            for episode, task_id, stream in _episodes(dataset, task, path):
                streams.setdefault(task_id, {}).setdefault(stream, []).append(episode)
        except CadError:
            raise
        except Exception as error:  # code of others may raise anything
            raise CadError(f"{folder}: its episodes cannot be read: {first_line(error)}") from error
    if env is None or not streams:
        raise CadError(f"{path} holds no episodes")
    family = task_family(env)
    lengths = [sum(map(len, episodes)) for each in streams.values() for episodes in each.values()]
    steps = min(lengths)
    if not family.ends_early:
        steps -= steps % family.horizon

    def read(task: int) -> Transitions:
        return _history(streams[task], family, steps, f"{path}: task {task}")

    tasks: dict[int, Read] = dict.fromkeys(streams, read)
    return write_as_found(env, out, tasks, path, f"{FileConfig.CONTENT[1]}{name}")


def _require_same_env(dataset: Any, env: EnvConfig | None, path: Path) -> EnvConfig:
    stated = dataset.storage.metadata.get(_ENV)
    if stated is not None:
        theirs = env_config(json.loads(stated))
        if env is None:
            return theirs
        for key in {**env.rules, **theirs.rules}:
            if theirs.rules.get(key) != env.rules.get(key):
                raise CadError(
                    f"{path} is of another environment: env.{key} is {theirs.rules.get(key)} there, "
                    f"{env.rules.get(key)} is wanted"
                )
    if env is None:
        raise UsageError(f"{path} does not say of which tasks it is: name a YAML file with a section env")
    theirs_id, ours = getattr(dataset.env_spec, "id", None), getattr(env, "id", None)
    if theirs_id is not None and ours is not None and theirs_id != ours.rpartition(":")[2]:
        raise CadError(f"{path} is of another environment: it is of {theirs_id}, env.id is {ours}")
    return env


def _require_same_spaces(dataset: Any, family: AnyFamily, path: Path) -> None:
    for what, same in (("observation_space", same_numbers), ("action_space", same_actions)):
        theirs, ours = getattr(dataset.spec, what), getattr(family.codec, what)
        if not same(theirs, ours):
            raise CadError(
                f"{path} is of another environment: its {what.replace('_', ' ')} is {theirs}, that of "
                f"{family.config.in_words()} is {ours}"
            )


def _episodes(dataset: Any, task: int | None, path: Path) -> Iterator[tuple[Any, int, int]]:
    """Every episode with its task and stream, in the order of their ids."""
    metadata = dataset.storage.get_episode_metadata(dataset.episode_indices)
    for episode, about in zip(dataset.iterate_episodes(), metadata, strict=True):
        task_id = about.get(_TASK, task)
        if task_id is None:
            raise CadError(
                f"{path}: episode {episode.id} has no task_id in its metadata; write it there, or one "
                "dataset a task into folders such as task-3-v0"
            )
        yield episode, int(task_id), int(about.get(_STREAM, 0))


def _history(streams: dict[int, list[Any]], family: AnyFamily, steps: int, where: str) -> Transitions:
    rows = [_stream(streams[number], family, where) for number in sorted(streams)]
    return Transitions(**{key: np.stack([row[key][:steps] for row in rows]) for key in rows[0]})


def _stream(episodes: list[Any], family: AnyFamily, where: str) -> dict[str, Any]:
    """The arrays (steps, ...) of consecutive episodes."""
    parts: dict[str, list[Any]] = {}
    for number, episode in enumerate(episodes):
        try:
            seen = family.codec.encode_stacked(episode.observations)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise CadError(f"{where}, episode {episode.id}: its observations: {first_line(error)}") from error
        if len(seen) != len(episode.rewards) + 1:
            raise CadError(
                f"{where}, episode {episode.id}: {len(seen)} observations, {len(episode.rewards)} rewards; "
                "one more observation is needed, the last one"
            )
        ends = np.asarray(episode.terminations, bool) | np.asarray(episode.truncations, bool)
        if number + 1 < len(episodes):
            ends[-1] = True  # another one follows
        try:
            actions = family.codec.numbers_of(np.asarray(episode.actions))
        except ValueError as error:
            raise CadError(f"{where}, episode {episode.id}, {error}") from error
        for key, values in (
            ("states", seen[:-1]), ("actions", actions), ("rewards", episode.rewards),
            ("next_states", seen[1:]), ("episode_ends", ends), ("terminations", episode.terminations),
        ):  # fmt: skip
            parts.setdefault(key, []).append(values)
    return {key: np.concatenate(values) for key, values in parts.items()}


def export_minari(histories: Histories, out: Path) -> int:
    """Write a file of ours as a Minari dataset, the new folder ``out``; the number of its episodes.

    Every episode is a group of that dataset: a file of many short ones becomes large.
    """
    package, env = _minari(), histories.provenance.env
    storage_class = import_module("minari.dataset.minari_storage").MinariStorage
    buffer_class = import_module("minari.data_collector.episode_buffer").EpisodeBuffer
    family = task_family(env)
    codec, name = family.codec, re.sub(r"[^-\w]", "-", out.name)
    with atomic_dir(
        out.absolute()
    ) as temporary:  # Minari takes a relative path for one in a folder of its own
        storage = storage_class.new(
            temporary / "data", codec.observation_space, codec.action_space, _spec(env), jpeg_encoding=False
        )
        dataset_id = name if re.search(r"-v\d+$", name) else f"{name}-v0"
        stated = json.dumps(env.model_dump(mode="json"))
        storage.update_metadata(
            {"dataset_id": dataset_id, "minari_version": package.__version__, _ENV: stated}
        )
        buffers, about = [], []
        for task in histories.task_ids:
            history = histories.task(task)
            for stream in range(len(history.actions)):
                last = np.flatnonzero(history.episode_ends[stream, :-1]) + 1
                for part in np.split(np.arange(history.actions.shape[1]), last):
                    buffers.append(_episode(buffer_class, history, codec, stream, part))
                    about.append({_TASK: task, _STREAM: stream})
        storage.update_episodes(buffers)
        storage.update_episode_metadata(about)
    return len(buffers)


def _spec(env: EnvConfig) -> Any:
    """What Gymnasium knows of the environment; None for ours, and for one that cannot be written down."""
    if not hasattr(env, "id"):
        return None
    spec = gym.spec(env.id.rpartition(":")[2])
    try:
        spec.to_json()
    except (TypeError, ValueError):
        return None
    return spec


def _episode(make: Any, history: Transitions, codec: Any, stream: int, steps: Any) -> Any:
    ends = history.episode_ends[stream, steps] > 0
    terminated = np.zeros_like(ends)
    if history.terminations is not None:
        terminated = history.terminations[stream, steps] > 0
    seen = np.concatenate([history.states[stream, steps], history.next_states[stream, steps[-1:]]])
    return make(
        observations=codec.decode_stacked(seen),
        actions=codec.actions_of(history.actions[stream, steps]),
        rewards=history.rewards[stream, steps].astype(np.float64),
        terminations=terminated,
        truncations=ends & ~terminated,
    )
