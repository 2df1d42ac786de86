"""From finished stages to the report's plain data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cad.envs import evaluated_tasks, task_family
from cad.errors import CadError
from cad.evaluation.actions_file import load_actions
from cad.evaluation.probe_result import PROBE_FILE, load_probe
from cad.evaluation.results import load_results
from cad.experiments.directory import StageDirectory
from cad.experiments.job import FAILED
from cad.experiments.plan import Cell
from cad.experiments.stages import ACTIONS_FILE, HISTORIES_FILE, RESULTS_FILE
from cad.histories.file import open_histories
from cad.histories.sampler import read_arrays
from cad.reports.results import CellResult, SourceCurve, TrainingPart
from cad.storage import read_json
from cad.training.checkpoint import newest_meta
from cad.training.metrics import read_metrics


def gather_cell(root: Path, cell: Cell) -> CellResult:
    """What is stored of one cell, however far it got."""
    family, tasks = task_family(cell.config.env), evaluated_tasks(cell.config)
    training, evaluation = StageDirectory(root, cell.training), StageDirectory(root, cell.evaluation)
    facts = training.facts() if training.done else {}
    result = load_results(evaluation.file(RESULTS_FILE)) if evaluation.done else None
    if result is not None and result.task_ids != tasks:
        raise CadError(f"{evaluation.file(RESULTS_FILE)} holds other tasks than the config names")
    probe = evaluation.file(PROBE_FILE)
    return CellResult(
        label=cell.label,
        arm=cell.arm,
        experiment=cell.experiment,
        config=cell.config,
        status=_status(root, cell),
        returns=result.returns if result else None,
        compressions=result.compressions if result else None,
        task_ids=tasks,
        goals=tuple(family.goal(task) for task in tasks),
        optimal=tuple(family.optimal_return(task) for task in tasks),
        state_bytes=result.state_bytes if result else None,
        n_parameters=facts.get("parameters"),
        train_seconds=facts.get("train_seconds"),
        evaluation_seconds=result.seconds if result else None,
        evaluation_steps_per_second=result.steps_per_second if result else None,
        metrics=read_metrics(training.file("metrics.jsonl")) or None,
        compression_steps=result.compression_steps if result else None,
        chosen=result.chosen if result else None,
        probe=load_probe(probe) if result and probe.exists() else None,
        actions=_actions(evaluation.file(ACTIONS_FILE)) if result else None,
        parts=_training_parts(root, cell),
        pretrain_metrics=_pretraining_metrics(root, cell),
    )


def _actions(path: Path) -> Callable[[int], npt.NDArray[np.uint8]] | None:
    """Reads the actions (roll-outs, steps) of a task; None where an evaluation did not keep them."""
    return (lambda task: load_actions(path, [task])[0]) if path.exists() else None


def _training_parts(root: Path, cell: Cell) -> tuple[TrainingPart, ...]:
    """What a cell's training consists of, those before its own included, however many cells share them."""
    named = (
        ("pre-training", cell.pretraining),
        ("AD to start from", cell.warm_start),
        ("training", cell.training),
    )
    return tuple(_part(kind, StageDirectory(root, stage)) for kind, stage in named if stage is not None)


def _part(kind: str, directory: StageDirectory) -> TrainingPart:
    facts = directory.facts() if directory.done else {}
    supervised = facts.get("supervised_actions")
    if facts and supervised is None:  # a version that left this to the checkpoints
        supervised = newest_meta(directory.file("checkpoints")).get("supervised_actions")
    return TrainingPart(
        kind, facts.get("train_seconds"), facts.get("updates"), supervised, int(facts.get("cores", 1))
    )


def _pretraining_metrics(root: Path, cell: Cell) -> list[dict[str, float]] | None:
    if cell.pretraining is None:
        return None
    return read_metrics(StageDirectory(root, cell.pretraining).file("metrics.jsonl")) or None


def _status(root: Path, cell: Cell) -> str:
    for stage in cell.stages:
        directory = StageDirectory(root, stage)
        marker = directory.file(FAILED)
        if not directory.done and marker.exists():
            return f"failed: {stage.kind}: {read_json(marker).get('message', '')}"
        if not directory.done:
            return "missing"
    return "done"


def gather_source(root: Path, cells: tuple[Cell, ...]) -> SourceCurve | None:
    """PPO's own learning on the evaluated tasks, where all cells share them and their histories."""
    first = cells[0]
    tasks = evaluated_tasks(first.config)
    same = all(
        c.histories.name == first.histories.name
        and c.config.env == first.config.env
        and c.config.evaluation.tasks == first.config.evaluation.tasks
        for c in cells
    )
    directory = StageDirectory(root, first.histories)
    if not same or not directory.done:
        return None
    with open_histories(directory.file(HISTORIES_FILE)) as file:
        rewards = read_arrays(file, tasks, first.config.env.steps_per_episode).rewards
    episodes = rewards.reshape(*rewards.shape[:2], -1, first.config.env.steps_per_episode)
    return SourceCurve(tasks, episodes.sum(axis=3, dtype=np.float64).mean(axis=1))
