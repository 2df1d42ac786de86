"""Probe the latents of an experiment's cells.

This is an analysis of finished evaluations, not a stage: nothing depends on it, so runs need not pay for
it.  Its result is written once, beside the evaluation, and the report shows it if it exists.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cad.checksums import DamagedFileError
from cad.envs.registry import task_family
from cad.envs.split import split_tasks
from cad.errors import CadError
from cad.evaluation.actions_file import load_actions, save_actions
from cad.evaluation.probes.latent_probe import FIT_ROLLOUTS, FIT_TASKS, probe_latents
from cad.evaluation.probes.result import LatentProbe, load_probe, save_probe
from cad.evaluation.probes.schedule import fit_episodes, probed_counts, why_no_probe
from cad.evaluation.replay import Trajectories, replay_actions, rollout_keys
from cad.evaluation.results import load_results
from cad.evaluation.rollout import roll_out
from cad.experiments.plan.cells import Cell
from cad.experiments.plan.directory import StageDirectory, StageFile
from cad.experiments.run.resources import pick_device
from cad.experiments.run.trained_model import evaluate, load_trained
from cad.interrupt import StopFlag
from cad.locks import folder_lock
from cad.models.compressed_ad.network import CompressedAD
from cad.models.network import SequenceModel
from cad.process import prepare_process
from cad.schema import Config

TEST_TASKS = 100


def probe_cell(root: Path, cell: Cell, device: str, stop: StopFlag) -> str:
    """Probe one cell unless that was done before or it has nothing to probe; returns what happened, in words.

    An evaluation that kept no actions is run again for them, and must give the same returns.  Raises
    :class:`CadError` where it does not, or where another process works on the evaluation.
    """
    reason = why_no_probe(cell.config)
    directory = StageDirectory(root, cell.evaluation.name)
    if reason is not None:
        return f"skipped: {reason}"
    if not directory.done:
        return "skipped: not evaluated yet"
    with folder_lock(directory.path, f"stage {directory.name}"):
        path = directory.file(StageFile.PROBE)
        if path.exists():
            return "done before" + _older(load_probe(path, directory.name), cell.config, path)
        prepare_process(1)
        model = load_trained(root, cell.training, cell.config).to(pick_device(device)).eval()
        assert isinstance(model, CompressedAD)
        test = _evaluated(directory, cell.config, model, stop)
        fit = _rollouts_to_fit(cell.config, model, stop)
        save_probe(path, probe_latents(cell.config, model, fit, test), directory.name)
    return "probed"


def _older(probe: LatentProbe, config: Config, path: Path) -> str:
    """What a probe of an earlier version lacks, for the message; empty if it lacks nothing."""
    counts, measured = probed_counts(config), {target.name for target in probe.targets}
    lacks = [name for name in task_family(config.evaluated_env).probed_places if name not in measured]
    if probe.counts[-1] < counts[-1]:
        lacks.append(f"anything after more than {probe.counts[-1]} compressions")
    without = " and ".join(lacks)
    return f", by an earlier version, without {without}; delete {path} to probe again" if lacks else ""


def _evaluated(
    directory: StageDirectory, config: Config, model: SequenceModel, stop: StopFlag
) -> Trajectories:
    """The evaluation's own roll-outs, in the first of its tasks."""
    actions_file, results_file = directory.checked(StageFile.ACTIONS), directory.checked(StageFile.RETURNS)
    stored = load_results(results_file, directory.name)
    if not actions_file.exists():
        again = evaluate(model, config, stop)
        if not np.array_equal(again.returns, stored.returns):
            raise CadError(
                f"{results_file}: its roll-outs cannot be reproduced here (another machine, device or "
                "version?), so its actions are unknown; use another --root to evaluate again"
            )
        save_actions(actions_file, again, directory.name)
        directory.record_output(StageFile.ACTIONS)
    tasks = stored.task_ids[:TEST_TASKS]
    actions = load_actions(actions_file, tasks, directory.name)
    paths = replay_actions(
        task_family(config.evaluated_env),
        np.repeat(tasks, actions.shape[1]),
        actions.reshape(-1, actions.shape[2]),
        rollout_keys(config.evaluation.seed, tasks, actions.shape[1]),
    )
    if not np.array_equal(
        paths.returns.reshape(stored.returns[: len(tasks)].shape), stored.returns[: len(tasks)]
    ):
        raise DamagedFileError(
            actions_file, f"it does not give the returns in {results_file.name}", directory.remedy
        )
    return paths


def _rollouts_to_fit(config: Config, model: SequenceModel, stop: StopFlag) -> Trajectories:
    """Roll-outs in training tasks, with the evaluation's settings."""
    family, settings = task_family(config.evaluated_env), config.evaluation
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
    return replay_actions(
        family,
        np.repeat(tasks, FIT_ROLLOUTS),
        result.actions.reshape(len(tasks) * FIT_ROLLOUTS, -1),
        rollout_keys(settings.seed, tasks, FIT_ROLLOUTS),
    )
