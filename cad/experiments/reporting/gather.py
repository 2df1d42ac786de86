"""Gather the report's plain data from finished stages."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cad.checksums import DamagedFileError
from cad.config import FileConfig
from cad.envs.config import EnvConfig
from cad.envs.registry import task_family
from cad.envs.split import split_tasks
from cad.errors import CadError
from cad.evaluation.actions_file import load_actions
from cad.evaluation.probes.result import load_probe
from cad.evaluation.results import load_results
from cad.experiments.plan.cells import Cell
from cad.experiments.plan.directory import StageDirectory, StageFile
from cad.histories.episodes import source_returns
from cad.histories.file import open_histories
from cad.histories.streams import episode_facts
from cad.reports import CellResult, SourceCurve, TrainingPart
from cad.training.checkpoint import newest_meta
from cad.training.metrics import read_metrics


def gather_cell(root: Path, cell: Cell) -> CellResult:
    """What is stored of one cell, finished or not."""
    family, tasks = task_family(cell.config.evaluated_env), cell.config.evaluated_tasks
    training, evaluation = (
        StageDirectory(root, cell.training.name),
        StageDirectory(root, cell.evaluation.name),
    )
    record = training.record() if training.done else {}
    result = load_results(evaluation.checked(StageFile.RETURNS), evaluation.name) if evaluation.done else None
    if result is not None and result.task_ids != tasks:
        raise CadError(f"{evaluation.file(StageFile.RETURNS)} holds other tasks than the config names")
    probe = evaluation.file(StageFile.PROBE)
    return CellResult(
        label=cell.label,
        arm=cell.arm,
        experiment=cell.experiment,
        config=cell.config,
        equal_state=cell.equal_state.in_words() if cell.equal_state else None,
        steps_per_update=cell.steps_per_update,
        status=_status(root, cell),
        returns=result.returns if result else None,
        compressions=result.compressions if result else None,
        task_ids=tasks,
        goals=tuple(family.goal(task) for task in tasks),
        optimal=tuple(family.optimal_return(task) for task in tasks),
        state_bytes=result.state_bytes if result else None,
        n_parameters=record.get("parameters"),
        train_seconds=record.get("train_seconds"),
        evaluation_seconds=result.seconds if result else None,
        evaluation_steps_per_second=result.steps_per_second if result else None,
        metrics=stored_metrics(training),
        compression_steps=result.compression_steps if result else None,
        chosen=result.chosen if result else None,
        lengths=result.lengths if result else None,
        history_episodes=_history_episodes(root, cell) if result else None,
        facts=result.facts if result else None,
        optima=result.optima if result else None,
        probe=load_probe(probe, evaluation.name) if result and probe.exists() else None,
        actions=_actions(evaluation) if result else None,
        parts=_training_parts(root, cell),
        pretrain_metrics=_pretraining_metrics(root, cell),
    )


def _history_episodes(root: Path, cell: Cell) -> int | None:
    """Most episodes of a history that was trained on; None where all have as many, or none is there."""
    directory = StageDirectory(root, cell.histories.name)
    if not task_family(cell.config.env).ends_early or not directory.done:
        return None
    return _most_episodes(directory, cell.config.env)


@lru_cache(maxsize=16)  # cells share histories, and those of a stage that is done do not change
def _most_episodes(directory: StageDirectory, env: EnvConfig) -> int:
    with open_histories(directory.checked(StageFile.HISTORIES), directory.name) as file:
        ends = [file.dataset(task, "episode_ends") for task in split_tasks(env).train]
    return max(int(each.sum(axis=1, dtype=np.int64).max()) for each in ends)


def _actions(evaluation: StageDirectory) -> Callable[[int], npt.NDArray[np.uint8]] | None:
    """Reads the actions (roll-outs, steps) of a task; None where an evaluation did not keep them."""
    if not evaluation.file(StageFile.ACTIONS).exists():
        evaluation.checked(StageFile.ACTIONS)  # raises where it did keep them
        return None
    return lambda task: load_actions(evaluation.checked(StageFile.ACTIONS), [task], evaluation.name)[0]


def stored_metrics(directory: StageDirectory) -> list[dict[str, float]] | None:
    """What a training recorded so far; None where there is nothing yet.

    Raises :class:`CadError` where that is damaged, or not all that a finished training recorded.
    """
    if not directory.done:
        return read_metrics(directory.file(StageFile.METRICS)) or None
    path, updates = directory.checked(StageFile.METRICS), directory.record().get("updates")
    records = read_metrics(path)
    last = records[-1].get("step") if records else "none"
    # All that can be checked in stages of versions that recorded no checksums.
    if path.exists() and updates is not None and last != updates:
        raise DamagedFileError(path, f"its last update is {last}, not {updates}", directory.remedy)
    return records or None


def _training_parts(root: Path, cell: Cell) -> tuple[TrainingPart, ...]:
    """A cell's training and the trainings before it, whether or not other cells share them."""
    named = (
        ("pre-training", cell.pretraining),
        ("AD to start from", cell.warm_start),
        ("training", cell.training),
    )
    return tuple(_part(kind, StageDirectory(root, stage.name)) for kind, stage in named if stage is not None)


def _part(kind: str, directory: StageDirectory) -> TrainingPart:
    record = directory.record() if directory.done else {}
    supervised = record.get("supervised_actions")
    if record and supervised is None:  # written by a version that kept this in checkpoints only
        supervised = newest_meta(directory.file(StageFile.CHECKPOINTS)).get("supervised_actions")
    return TrainingPart(
        kind, record.get("train_seconds"), record.get("updates"), supervised, int(record.get("cores", 1))
    )


def _pretraining_metrics(root: Path, cell: Cell) -> list[dict[str, float]] | None:
    if cell.pretraining is None:
        return None
    return stored_metrics(StageDirectory(root, cell.pretraining.name))


def _status(root: Path, cell: Cell) -> str:
    for stage in cell.stages:
        directory = StageDirectory(root, stage.name)
        failure = directory.failure()
        if failure is not None:
            return f"failed: {stage.kind}: {failure}"
        if (pruned := directory.pruned()) is not None:
            return f"pruned: {pruned}"
        if not directory.done:
            return "missing"
    return "done"


def gather_source(root: Path, cells: tuple[Cell, ...]) -> SourceCurve | None:
    """The source agents' own learning on the evaluated tasks; None unless all cells share both."""
    first = cells[0]
    tasks = first.config.evaluated_tasks
    same = all(
        c.histories.name == first.histories.name
        and c.config.env == first.config.env
        and c.config.evaluation.env is None
        and c.config.evaluation.tasks == first.config.evaluation.tasks
        for c in cells
    )
    family = task_family(first.config.env)
    directory = StageDirectory(root, first.histories.name)
    # Which fact an episode needed is not known of histories of another program.
    unknown = family.n_facts > 1 and isinstance(first.config.source, FileConfig)
    if not same or unknown or not directory.done:
        return None
    with open_histories(directory.checked(StageFile.HISTORIES), directory.name) as file:
        returns = source_returns(file, family, tasks)
    if family.n_facts > 1:  # each episode has its own optimum
        source, n_episodes = first.config.source, returns.shape[2]
        for index, task in enumerate(tasks):
            facts = episode_facts(family, task, source, n_episodes)
            optima = family.episode_optimum(family.goals([task] * facts.size), facts.ravel())
            base = family.random_return
            scale = (family.optimal_return(task) - base) / (optima.reshape(facts.shape) - base)
            returns[index] = base + (returns[index] - base) * scale
    return SourceCurve(tasks, returns.mean(axis=1))
