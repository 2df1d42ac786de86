"""What a training is made of, from a cell's config: model, sampler, objective.

Stages, calibration and ``cad doctor`` all train what is built here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cad.config.training import LoopConfig, TrainConfig
from cad.envs.registry import task_family
from cad.histories.sampler import HistoryArrays, WindowSampler
from cad.interrupt import StopFlag
from cad.models import registry
from cad.models.blocks.step_embedding import StepEmbedding
from cad.models.network import SequenceModel
from cad.models.objective import Objective
from cad.models.spec import HistoryShape
from cad.schema import Config
from cad.training.loop import train
from cad.training.packed.loop import train_in_graphs
from cad.training.packed.shape import pack_key
from cad.training.ranks import SINGLE_PROCESS, Ranks
from cad.training.training import Progress, Training, TrainingSummary, Validation


@dataclass(frozen=True)
class Learner:
    """A fresh model with what trains it."""

    config: Config
    settings: LoopConfig
    """The section of the config that holds the loop's settings."""
    seed: int
    model: SequenceModel
    """What the training is for."""
    trained: nn.Module
    """The model, or a module around it with parts that only help it learn."""
    sampler: WindowSampler
    objective: Objective

    def training(
        self,
        folder: Path,
        *,
        run_id: str,
        device: torch.device,
        validate: Callable[[], float] | None = None,
        give_up: Callable[[int, float], str | None] = lambda _step, _best: None,
        progress: Progress | None = None,
        ranks: Ranks = SINGLE_PROCESS,
    ) -> Training:
        """The training of this model, with checkpoints and metrics in ``folder``.

        ``validate`` gives the model's return on the validation tasks; ``train.validate_every`` says when.
        ``give_up`` is :attr:`~cad.training.training.Validation.give_up`.
        """
        every = self.config.train.validate_every
        return Training(
            self.settings,
            self.trained,
            self.sampler,
            folder,
            objective=self.objective,
            seed=self.seed,
            run_id=run_id,
            device=device,
            validation=Validation(lambda _: validate(), every, give_up) if validate and every else None,
            progress=progress,
            ranks=ranks,
            origin={"config": self.config.model_dump(mode="json")},
        )

    def fit(
        self,
        folder: Path,
        *,
        run_id: str,
        device: torch.device,
        stop: StopFlag,
        validate: Callable[[], float] | None = None,
        give_up: Callable[[int, float], str | None] = lambda _step, _best: None,
        progress: Progress | None = None,
        ranks: Ranks = SINGLE_PROCESS,
    ) -> TrainingSummary:
        """Train as :meth:`training` and :meth:`train` say."""
        training = self.training(
            folder,
            run_id=run_id,
            device=device,
            validate=validate,
            give_up=give_up,
            progress=progress,
            ranks=ranks,
        )
        return self.train(training, stop)

    @property
    def has_graphs(self) -> bool:
        """Whether the updates of this training alone are CUDA graphs on a GPU."""
        acts = isinstance(self.settings, TrainConfig)
        return acts and self.config.spec.stacks and pack_key(self.config) is not None

    def train(self, training: Training, stop: StopFlag) -> TrainingSummary:
        """See :func:`cad.training.loop.train`; on a GPU, where that can be, by CUDA graphs."""
        if training.device.type == "cuda" and self.has_graphs:
            return train_in_graphs(training, stop)
        return train(training, stop, unused_parameters=self.settings.leaves_weights_unused)


def build_model(config: Config) -> SequenceModel:
    """The model of a cell, with weights drawn from torch's global generator."""
    return registry.build_model(config.model, task_family(config.env).spaces)


def training_sampler(config: Config, arrays: HistoryArrays) -> WindowSampler:
    """Draws the batches of action training."""
    windows = config.spec.windows(config.model, config.train, _history_shape(arrays))
    return WindowSampler(
        arrays,
        windows,
        seed=config.seed,
        batch_size=config.train.batch_size,
        max_gap=config.train.max_episode_gap,
    )


def training_objective(config: Config) -> Objective:
    """What action training minimises."""
    return config.spec.objective(config.model, config.others, task_family(config.env).spaces)


def build_training(config: Config, arrays: HistoryArrays) -> Learner:
    """What trains the model that ``config`` describes; equal weights for equal seeds."""
    torch.manual_seed(config.seed)
    model = build_model(config)
    _normalise_floats(model, arrays)
    return Learner(
        config,
        config.train,
        config.seed,
        model,
        config.spec.learner(model, config.others),
        training_sampler(config, arrays),
        training_objective(config),
    )


def build_pretraining(config: Config, arrays: HistoryArrays) -> Learner:
    """What pre-trains a part of the model that ``config`` describes, for kinds that have a pre-training."""
    pretraining, settings, seed = config.spec.pretraining, config.pretrain, config.pretraining_seed
    assert pretraining is not None  # the config's rules see to it
    windows = pretraining.windows(config.model, settings, _history_shape(arrays))
    torch.manual_seed(seed)
    model = pretraining.build(config.model, settings, task_family(config.env).spaces)
    _normalise_floats(model, arrays)
    return Learner(
        config,
        settings,
        seed,
        model,
        model,
        WindowSampler(
            arrays, windows, seed=seed, batch_size=settings.batch_size, max_gap=settings.max_episode_gap
        ),
        pretraining.objective(config.model, settings, model.spaces),
    )


def _normalise_floats(model: SequenceModel, arrays: HistoryArrays) -> None:
    """Give the model the statistics of the training tasks' observations, where those have floats."""
    for module in model.modules():
        if isinstance(module, StepEmbedding) and module.reals is not None:
            floats = arrays.observations[..., -module.reals.in_features :]
            axes = tuple(range(floats.ndim - 1))
            mean, deviation = floats.mean(axes, dtype=np.float64), floats.std(axes, dtype=np.float64)
            module.normalise_by(torch.from_numpy(mean), torch.from_numpy(np.maximum(deviation, 1e-6)))


def _history_shape(arrays: HistoryArrays) -> HistoryShape:
    return HistoryShape(arrays.actions.shape[-1], arrays.horizon)
