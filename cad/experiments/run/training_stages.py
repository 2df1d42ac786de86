"""The work of stages that train: a model, or an encoder before it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from cad.checksums import file_checksum, trust
from cad.envs.registry import task_family
from cad.envs.split import split_tasks
from cad.errors import CadError
from cad.experiments.plan.directory import StageDirectory, StageFile
from cad.experiments.plan.stage import Stage, StageKind
from cad.experiments.run.attempt import StageAttempt
from cad.experiments.run.resources import Resources, engine_settings, pick_device
from cad.experiments.run.trained_model import model_with, validation_return
from cad.histories.audit import require_sound
from cad.histories.file import open_histories
from cad.histories.sampler import HistoryArrays, read_arrays, stream_arrays
from cad.interrupt import StopFlag
from cad.models.network import SequenceModel
from cad.schema import Config
from cad.storage import user_path
from cad.training.learner import Learner, build_pretraining, build_training
from cad.training.ranks import SINGLE_PROCESS, Ranks, device_of_rank
from cad.training.training import Training, TrainingSummary
from cad.training.transfer import (
    load_decoder,
    load_encoder,
    read_weights,
    require_same_model,
    save_weights,
)


def run_pretraining(
    attempt: StageAttempt, resources: Resources, stop: StopFlag, ranks: Ranks
) -> dict[str, Any]:
    """Pre-train an encoder; what the stage's record says of it.  All ``ranks`` call this alike."""
    learner = build_pretraining(attempt.stage.config, training_arrays(attempt, ranks))
    settings = learner.settings
    summary = learner.fit(
        attempt.directory.path,
        run_id=attempt.stage.name,
        device=_device(resources, ranks),
        stop=stop,
        progress=lambda step, values: attempt.report(step, settings.n_updates, **values),
        ranks=ranks,
    )
    if ranks.first:
        config = attempt.stage.config
        assert config.spec.pretraining is not None  # the config's rules see to it
        saved = config.spec.pretraining.saved
        save_weights(attempt.file(StageFile.ENCODER), config, learner.model, saved, attempt.stage.name)
        shutil.rmtree(attempt.file(StageFile.STREAMED), ignore_errors=True)
    return _record(learner, summary, ranks)


def run_training(attempt: StageAttempt, resources: Resources, stop: StopFlag, ranks: Ranks) -> dict[str, Any]:
    """Train a model; what the stage's record says of it.  All ``ranks`` call this alike."""
    config = attempt.stage.config
    if config.train.weights is not None:
        return _take_weights(attempt, config, config.train.weights) if ranks.first else {}
    learner = prepare_training(attempt, training_arrays(attempt, ranks))
    training = training_of(attempt, learner, resources, ranks)
    return save_trained(attempt, learner, learner.train(training, stop), ranks)


def prepare_training(attempt: StageAttempt, arrays: HistoryArrays) -> Learner:
    """A model with the weights that it begins with, and what trains it on ``arrays``."""
    learner = build_training(attempt.stage.config, arrays)
    _load_initial_weights(attempt, learner.model)
    return learner


def _take_weights(attempt: StageAttempt, config: Config, path: str) -> dict[str, Any]:
    """The weights of a file become the stage's, if they are those of the same model and split."""
    weights = read_weights(user_path(path), "train.weights")
    require_same_model(weights, config, "train.weights")
    model = model_with(weights, config)
    save_weights(attempt.file(StageFile.MODEL), config, model, stage=attempt.stage.name)
    return {"parameters": sum(p.numel() for p in model.parameters())}


def training_of(
    attempt: StageAttempt, learner: Learner, resources: Resources, ranks: Ranks = SINGLE_PROCESS
) -> Training:
    """The training of the stage's model, in the stage's directory."""
    config, total, pruning = attempt.stage.config, learner.settings.n_updates, resources.pruning

    def give_up(update: int, best: float) -> str | None:
        return None if pruning is None else pruning.verdict(attempt.stage.name, update, total, best)

    return learner.training(
        attempt.directory.path,
        run_id=attempt.stage.name,
        device=_device(resources, ranks),
        validate=lambda: validation_return(config, learner.model, ranks),
        give_up=give_up,
        progress=lambda step, values: attempt.report(step, total, **values),
        ranks=ranks,
    )


def save_trained(
    attempt: StageAttempt, learner: Learner, summary: TrainingSummary, ranks: Ranks = SINGLE_PROCESS
) -> dict[str, Any]:
    """Write the trained model; what the stage's record says of the training."""
    if ranks.first:
        config = attempt.stage.config
        save_weights(attempt.file(StageFile.MODEL), config, learner.model, stage=attempt.stage.name)
        shutil.rmtree(attempt.file(StageFile.STREAMED), ignore_errors=True)
    return _record(learner, summary, ranks)


def _device(resources: Resources, ranks: Ranks) -> torch.device:
    return device_of_rank(pick_device(resources.device), ranks.local_rank)


def _record(learner: Learner, summary: TrainingSummary, ranks: Ranks) -> dict[str, Any]:
    """What the stage's record says of its training."""
    settings = learner.settings
    record: dict[str, Any] = {
        "train_seconds": summary.seconds,
        "updates": summary.updates,
        "supervised_actions": summary.supervised_actions,
        "parameters": sum(p.numel() for p in learner.model.parameters()),
    }
    if settings.engine != "plain":
        record |= {"engine": settings.engine, "ranks": ranks.size}
    return record


def training_arrays(attempt: StageAttempt, ranks: Ranks = SINGLE_PROCESS) -> HistoryArrays:
    """The training tasks' histories, audited.

    Where the config says to stream them, the first rank makes the copy that all ranks read.
    """
    stage = attempt.stage
    source = stage.inputs[0]
    histories = StageDirectory(attempt.root, source.name).file(StageFile.HISTORIES)
    settings = engine_settings(stage)
    copy = attempt.file(StageFile.STREAMED) if settings is not None and settings.stream else None
    arrays = None
    if ranks.first:
        histories = StageDirectory(attempt.root, source.name).checked(StageFile.HISTORIES)
        require_sound(histories, source.config.env, source.name)
        arrays = _load_training_arrays(stage.config, histories, copy)
    ranks.broadcast(True)
    if arrays is None:
        trust(histories)  # the first rank has compared it
        arrays = _load_training_arrays(stage.config, histories, copy, check=False)
    return arrays


def _load_training_arrays(
    config: Config, histories: Path, copy: Path | None, *, check: bool = True
) -> HistoryArrays:
    """The histories of the training tasks alone: held-out and validation tasks are never read.

    With ``copy``, a folder, they are not held in memory but read from there.
    """
    tasks, family = split_tasks(config.env).train, task_family(config.env)
    with open_histories(histories) as file:
        if copy is not None:
            return stream_arrays(file, family, tasks, copy, check=check)
        return read_arrays(file, family, tasks)


def _load_initial_weights(attempt: StageAttempt, model: SequenceModel) -> None:
    """Load into a fresh model the weights that its config takes from elsewhere."""
    config = attempt.stage.config
    pretrained = _input(attempt, "pretrain")
    if pretrained is not None:
        path = pretrained.checked(StageFile.ENCODER)
        load_encoder(model, config, path, "pretrain.enabled", pretrained.name)
    elif config.train.pretrained_encoder_path is not None:
        path = _named_file(attempt.stage, "pretrained_encoder_path")
        load_encoder(model, config, path, "train.pretrained_encoder_path")
    warm = _input(attempt, "train")
    if warm is not None:
        load_decoder(model, config, warm.checked(StageFile.MODEL), "train.init_from_ad", warm.name)
    elif config.train.init_from_ad is not None:
        load_decoder(model, config, _named_file(attempt.stage, "init_from_ad"), "train.init_from_ad")
    if config.freezes_encoder:
        config.spec.freeze_encoder(model)


def _named_file(stage: Stage, key: str) -> Path:
    """The file of weights that a setting names; it has the content that the stage is named after."""
    path = user_path(getattr(stage.config.train, key))
    if file_checksum(path) != stage.identity["config"]["train"][key]:
        raise CadError(
            f"train.{key}: {path} was changed after {stage.name} was named after its content; run the same "
            "command again: it makes a stage of the file as it is now"
        )
    return path


def _input(attempt: StageAttempt, kind: StageKind) -> StageDirectory | None:
    """The directory of the stage's input of a kind; None where it has no such input."""
    for stage in attempt.stage.inputs:
        if stage.kind == kind:
            return StageDirectory(attempt.root, stage.name)
    return None
