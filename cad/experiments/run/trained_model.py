"""A trained model: its weights, and its roll-outs as a config describes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from cad.checksums import DamagedFileError, is_missing
from cad.envs.registry import task_family
from cad.envs.split import split_tasks
from cad.errors import CadError
from cad.evaluation.compression_steps import CompressionEvent
from cad.evaluation.knock_out import knock_out
from cad.evaluation.rollout import RolloutResult, roll_out
from cad.evaluation.saved_rollout import RolloutFile
from cad.experiments.plan.directory import StageDirectory, StageFile
from cad.experiments.plan.stage import Stage
from cad.interrupt import StopFlag
from cad.models.network import SequenceModel
from cad.schema import Config
from cad.training.learner import build_model
from cad.training.ranks import SINGLE_PROCESS, Ranks
from cad.training.transfer import Weights, read_weights


def load_trained(root: Path, training: Stage, config: Config) -> SequenceModel:
    """The model of a finished training, for a cell's ``config``; its file is checked first."""
    directory = StageDirectory(root, training.name)
    path = directory.checked(StageFile.MODEL)
    if is_missing(path):
        raise DamagedFileError(path, "it is missing", directory.remedy)
    weights = read_weights(path, stage=training.name)
    if not training.is_described_by(weights.config):
        raise DamagedFileError(
            path, f"it is the model of another config than {training.name}", directory.remedy
        )
    return model_with(weights, config)


def model_with(weights: Weights, config: Config) -> SequenceModel:
    """The model that ``config`` describes, with the weights of a file."""
    model = build_model(config)
    try:
        model.load_state_dict(weights.tensors)
    except RuntimeError as error:
        raise CadError(f"{weights.path} is that of another config ({error})") from error
    return model


def evaluate(
    model: SequenceModel,
    config: Config,
    stop: StopFlag,
    progress: Callable[[int], None] | None = None,
    on_compress: Callable[[CompressionEvent], None] | None = None,
    file: RolloutFile | None = None,
) -> RolloutResult:
    """Roll the model out in all tasks of its evaluation, as ``config.evaluation`` says.

    With a ``file``, one that was stopped goes on.
    """
    settings = config.evaluation
    return roll_out(
        model,
        task_family(config.evaluated_env),
        config.evaluated_tasks,
        n_rollouts=settings.n_rollouts,
        n_episodes=settings.n_episodes,
        seed=settings.seed,
        temperature=settings.temperature_at,
        greedy=settings.greedy,
        stop=stop,
        progress=progress,
        on_compress=on_compress,
        before_episodes=knock_out(settings, settings.n_rollouts),
        demonstrated=settings.demonstrated_episodes,
        file=file,
    )


def validation_return(config: Config, model: SequenceModel, ranks: Ranks = SINGLE_PROCESS) -> float:
    """Mean return, as a share of the optimum, in the last half of a validation roll-out.

    Ranks shard the tasks; all of them get the same answer.
    """
    family, tasks = task_family(config.env), split_tasks(config.env).validation
    shares = torch.zeros(len(tasks), dtype=torch.float64)
    own = range(ranks.rank, len(tasks), ranks.size)
    if own:
        result = roll_out(
            model,
            family,
            [tasks[index] for index in own],
            n_rollouts=config.train.validation_rollouts,
            n_episodes=config.train.validation_episodes,
            seed=config.seed,
        )
        late = slice(config.train.validation_episodes // 2, None)
        if result.optima is None:
            means = result.returns[:, :, late].mean(axis=(1, 2))
            values = family.score(means, [family.optimal_return(tasks[i]) for i in own]).tolist()
        else:
            values = result.shares(family)[:, :, late].mean(axis=(1, 2)).tolist()
        shares[list(own)] = torch.tensor(values, dtype=torch.float64)
    return float(ranks.all_gather(shares).sum(dim=0).numpy().mean())
