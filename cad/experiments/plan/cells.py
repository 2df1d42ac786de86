"""Expand an experiment to cells, and each cell to its stages."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from cad.envs.config import EnvConfig
from cad.errors import UsageError
from cad.experiments.plan.equal_state import Choice, Point, choose, reference_point
from cad.experiments.plan.stage import STAGE_KINDS, WARM_START_STAGE, Stage, StageKind, warm_start_config
from cad.schema import Arm, Config, ExperimentConfig


@dataclass(frozen=True)
class Cell:
    """One point of an experiment's grid with one seed."""

    arm: str
    label: str
    config: Config
    experiment: str = ""  # named only where several experiments are compared
    equal_state: Choice | None = None  # what was chosen for a state as large as another arm's

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


def expand(
    experiment: ExperimentConfig, where: str, place: Callable[[tuple[str | int, ...]], str] | None = None
) -> tuple[Cell, ...]:
    """All cells, arm by arm, grid in the order of its keys, seeds innermost.

    ``where`` names the file in messages, ``place`` the line of a part of it.  Raises
    :class:`~cad.errors.UsageError` naming the arm whose settings do not fit, or a reference that
    is not one of the models, so that this is known before anything runs.
    """
    place = place or (lambda _: where)
    names = [f"{place(('arms', i))}: arm {arm.name!r}" for i, arm in enumerate(experiment.arms)]
    # No rule depends on the seed, so that one validation does for all.
    sized = [
        Point(arm.name, label, grid, experiment.base.with_overrides({**arm.set, **grid}, name))
        for arm, name in zip(experiment.arms, names, strict=True)
        if arm.equal_state is None
        for label, grid in _points(arm)
    ]
    models: list[tuple[Arm, str, Config, Choice | None]] = []
    for i, (arm, name) in enumerate(zip(experiment.arms, names, strict=True)):
        if arm.equal_state is None:
            models += [(arm, point.label, point.config, None) for point in sized if point.arm == arm.name]
            continue
        origin = f"{place(('arms', i, 'equal_state'))}: arm {arm.name!r}: equal_state"
        other = reference_point(arm.equal_state, sized, origin)
        for label, grid in _points(arm):
            settings = {**arm.set, **grid}
            choice = choose(experiment.base.with_overrides(settings, name), settings, other, origin)
            chosen = experiment.base.with_overrides({**settings, choice.key: choice.value}, name)
            models.append((arm, label, chosen, choice))
    cells = tuple(
        Cell(arm.name, label, config.model_copy(update={"seed": seed}), equal_state=choice)
        for arm, label, config, choice in models
        for seed in arm.seeds or experiment.seeds
    )
    reference, labels = experiment.report.reference, dict.fromkeys(cell.label for cell in cells)
    if reference is not None and reference not in labels:
        raise UsageError(
            f"{where}: report.reference={reference!r} is not a model; choose one of: {'; '.join(labels)}"
        )
    return cells


def _points(arm: Arm) -> Iterator[tuple[str, dict[str, object]]]:
    """Label and grid settings of every point of an arm's grid."""
    for values in itertools.product(*arm.grid.values()):
        point = dict(zip(arm.grid, values, strict=True))
        parts = [_words(key, value) for key, value in point.items()]
        yield ", ".join([arm.name, *parts]), point


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
