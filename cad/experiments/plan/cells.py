"""Expand an experiment to cells, and each cell to its stages."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from cad.envs.config import EnvConfig
from cad.errors import UsageError
from cad.experiments.plan.stage import STAGE_KINDS, WARM_START_STAGE, Stage, StageKind, warm_start_config
from cad.schema import Arm, Config, ExperimentConfig


@dataclass(frozen=True)
class Cell:
    """One point of an experiment's grid with one seed."""

    arm: str
    label: str
    config: Config
    experiment: str = ""  # named only where several experiments are compared

    @cached_property
    def histories(self) -> Stage:
        """The stage that collects the PPO agents' histories."""
        return histories_stage(self.config)

    @cached_property
    def pretraining(self) -> Stage | None:
        """The stage that pre-trains the encoder, if the config wants one."""
        return Stage("pretrain", self.config, (self.histories,)) if self.config.pretrain.enabled else None

    @cached_property
    def warm_start(self) -> Stage | None:
        """The stage that trains the AD whose decoder the model starts with, if the config wants one."""
        if self.config.train.init_from_ad != WARM_START_STAGE:
            return None
        return Stage("train", warm_start_config(self.config), (self.histories,))

    @cached_property
    def training(self) -> Stage:
        """The stage that trains the model."""
        inputs = filter(None, [self.histories, self.pretraining, self.warm_start])
        return Stage("train", self.config, tuple(inputs))

    @cached_property
    def evaluation(self) -> Stage:
        """The stage that evaluates the model in the held-out tasks."""
        return Stage("evaluate", self.config, (self.training,))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All stages, in order."""
        return (*self.training.inputs, self.training, self.evaluation)


def histories_stage(config: Config) -> Stage:
    """The stage that collects the histories of ``config``; all splits of the same tasks share it."""
    return Stage("histories", config.model_copy(update={"env": collection_env(config.env)}))


def collection_env(env: EnvConfig) -> EnvConfig:
    """``env`` with a fixed split, which histories do not depend on: they hold all tasks."""
    keep = {} if env.n_tasks is not None else {"split_seed": 0}
    return env.model_copy(
        update={"horizon": env.steps_per_episode, "n_heldout": 1, "n_validation": 0, **keep}
    )


def expand(experiment: ExperimentConfig, where: str) -> tuple[Cell, ...]:
    """All cells, arm by arm, grid in the order of its keys, seeds innermost.

    Raises :class:`~cad.errors.UsageError` naming the arm whose settings do not fit, or a reference that
    is not one of the models, so that this is known before anything runs.
    """
    cells = tuple(
        Cell(arm.name, label, config.model_copy(update={"seed": seed}))
        for arm in experiment.arms
        for label, settings, origin in _points(arm, where)
        # No rule depends on the seed, so that one validation does for all.
        for config in [experiment.base.with_overrides(settings, origin)]
        for seed in arm.seeds or experiment.seeds
    )
    reference, labels = experiment.report.reference, dict.fromkeys(cell.label for cell in cells)
    if reference is not None and reference not in labels:
        raise UsageError(
            f"{where}: report.reference={reference!r} is not a model; choose one of: {'; '.join(labels)}"
        )
    return cells


def _points(arm: Arm, where: str) -> Iterator[tuple[str, dict[str, object], str]]:
    for values in itertools.product(*arm.grid.values()):
        point = dict(zip(arm.grid, values, strict=True))
        parts = [_words(key, value) for key, value in point.items()]
        yield ", ".join([arm.name, *parts]), {**arm.set, **point}, f"{where}: arm {arm.name!r}"


def _words(key: str, value: object) -> str:
    if key == "pretrain" and isinstance(value, dict):
        how = "frozen" if value.get("freeze") else "fine-tuned"
        rest = [f"{name} {value[name]}" for name in value if name not in ("enabled", "freeze")]
        return ", ".join([f"pre-trained, {how}" if value.get("enabled") else "from scratch", *rest])
    return _IN_WORDS.get(key, key.rpartition(".")[2] + " {}").format(value)


_IN_WORDS = {
    "pretrain.enabled": "pre-trained: {}",
    "pretrain.freeze": "frozen: {}",
    "train.reconstruction_weight": "reconstruction weight {}",
    "model.max_compression_depth": "depth {}",
    "model.n_latent": "{} latents",
    "model.n_transit": "window {}",
    "evaluation.first_temperature": "from temperature {}",
}


def distinct_stages(
    cells: tuple[Cell, ...], first: StageKind = "histories", last: StageKind = "evaluate"
) -> tuple[Stage, ...]:
    """Every stage of the kinds from ``first`` to ``last`` once, inputs before the stages that need them."""
    kinds = STAGE_KINDS[STAGE_KINDS.index(first) : STAGE_KINDS.index(last) + 1]
    stages = {stage.name: stage for cell in cells for stage in cell.stages if stage.kind in kinds}
    return tuple(stages.values())
