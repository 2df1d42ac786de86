"""Probing the latents of an experiment's cells: an analysis of finished evaluations, no stage.

Nothing is built on a probe and no return depends on it, so it is no stage that every run would have
to pay for and every finished experiment would lack.  What it finds lies beside the evaluation, is
written once, and is in the report where it is there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cad.config.schema import Config
from cad.envs import split_tasks, task_family
from cad.errors import CadError
from cad.evaluation.actions_file import load_actions, save_actions
from cad.evaluation.paths import Paths, follow
from cad.evaluation.probe import FIT_ROLLOUTS, FIT_TASKS, fit_episodes, probe_latents, why_no_probe
from cad.evaluation.probe_result import PROBE_FILE, load_probe, save_probe
from cad.evaluation.results import load_results
from cad.evaluation.rollout import roll_out
from cad.experiments.directory import StageDirectory
from cad.experiments.plan import Cell
from cad.experiments.stages import ACTIONS_FILE, MODEL_FILE, RESULTS_FILE, evaluate, load_model, pick_device
from cad.interrupt import StopFlag
from cad.models import CompressedAD, SequenceModel
from cad.process import prepare_process
from cad.storage import folder_lock

TEST_TASKS = 100


def probe_cell(root: Path, cell: Cell, device: str, stop: StopFlag) -> str:
    """Probe one cell, unless that was done before or there is nothing to probe; what happened, in words.

    An evaluation of before actions were kept is run again for them, and has to give the same returns.
    Raises :class:`CadError` where it does not, or where another process works on the evaluation.
    """
    reason = why_no_probe(cell.config)
    directory = StageDirectory(root, cell.evaluation)
    if reason is not None:
        return f"skipped: {reason}"
    if not directory.done:
        return "skipped: not evaluated yet"
    with folder_lock(directory.path, f"stage {directory.stage.name}"):
        path = directory.file(PROBE_FILE)
        if path.exists():
            load_probe(path)
            return "done before"
        prepare_process(1)
        trained = StageDirectory(root, cell.training)
        model = load_model(trained.file(MODEL_FILE), cell.config).to(pick_device(device)).eval()
        assert isinstance(model, CompressedAD)
        test = _evaluated(directory, model, stop)
        save_probe(path, probe_latents(cell.config, model, _lived_to_fit(cell.config, model, stop), test))
    return "probed"


def _evaluated(directory: StageDirectory, model: SequenceModel, stop: StopFlag) -> Paths:
    """The evaluation's own roll-outs, in the first of its tasks."""
    config = directory.stage.config
    actions_file, results_file = directory.file(ACTIONS_FILE), directory.file(RESULTS_FILE)
    stored = load_results(results_file)
    if not actions_file.exists():
        again = evaluate(model, config, stop)
        if not np.array_equal(again.returns, stored.returns):
            raise CadError(
                f"{results_file}: its roll-outs come out differently here (another machine, device or "
                f"version?), so that its actions cannot be told; remove {directory.path} to evaluate again"
            )
        save_actions(actions_file, again)
    tasks = stored.task_ids[:TEST_TASKS]
    actions = load_actions(actions_file, tasks)
    paths = follow(
        task_family(config.env),
        np.repeat(tasks, actions.shape[1]),
        actions.reshape(-1, actions.shape[2]),
    )
    if not np.array_equal(
        paths.returns.reshape(stored.returns[: len(tasks)].shape), stored.returns[: len(tasks)]
    ):
        raise CadError(f"{actions_file} does not belong to {results_file.name}; remove it and try again")
    return paths


def _lived_to_fit(config: Config, model: SequenceModel, stop: StopFlag) -> Paths:
    """Roll-outs in training tasks, with the evaluation's settings."""
    family, settings = task_family(config.env), config.evaluation
    tasks = split_tasks(config.env).train[:FIT_TASKS]
    result = roll_out(
        model,
        family,
        tasks,
        n_rollouts=FIT_ROLLOUTS,
        n_episodes=fit_episodes(config),
        seed=settings.seed,
        temperature=settings.temperature_at,
        greedy=settings.greedy,
        stop=stop,
    )
    assert result.actions is not None
    return follow(
        family, np.repeat(tasks, FIT_ROLLOUTS), result.actions.reshape(len(tasks) * FIT_ROLLOUTS, -1)
    )
