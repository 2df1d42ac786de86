"""Expand an experiment to cells, and each cell to its stages."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from cad.config.words import setting_in_words
from cad.envs.config import EnvConfig
from cad.errors import UsageError
from cad.experiments.plan.equal_state import Choice, Point, choose, reference_point
from cad.experiments.plan.stage import STAGE_KINDS, WARM_START_STAGE, Stage, StageKind, warm_start_config
from cad.schema import Arm, Config, EqualState, ExperimentConfig

_MOST_CELLS = 20_000


@dataclass(frozen=True)
class Cell:
    """One point of an experiment's grid with one seed."""

    arm: str
    label: str
    config: Config
    experiment: str = ""  # named only where several experiments are compared
    equal_state: Choice | None = None  # what was chosen for a state as large as another arm's
    steps_per_update: int | None = None  # which train.batch_size was chosen for

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
        if self.config.train.weights is not None:
            return Stage("train", self.config)
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


Place = Callable[[tuple[str | int, ...]], str]
"""Where the value at a path of the experiment file was written, such as ``FILE:LINE``."""


def expand(experiment: ExperimentConfig, where: str, place: Place | None = None) -> tuple[Cell, ...]:
    """All cells, arm by arm, grid in the order of its keys, seeds innermost.

    Raises :class:`~cad.errors.UsageError` naming the arm whose settings do not fit or do not vary, or a
    reference that is not one of the models, so that this is known before anything runs.  Messages begin
    with ``where``, or the ``place`` of what is wrong.
    """
    place = place or (lambda _: where)
    for number in range(len(experiment.arms)):
        _require_axes(experiment.arms[number], number, place)
    _require_names_and_seeds(experiment, place)
    _require_few_cells(experiment, place)
    sized = [
        Point(arm.name, label, grid, _config(experiment, number, grid, place))
        for number, arm in enumerate(experiment.arms)
        if arm.equal_state is None
        for label, grid in _points(arm)
    ]
    models: list[tuple[Arm, str, Config, Choice | None]] = []
    for number, arm in enumerate(experiment.arms):
        if arm.equal_state is None:
            own: list[tuple[Point, Choice | None]] = [(p, None) for p in sized if p.arm == arm.name]
        else:
            own = _points_of_equal_state(experiment, number, arm.equal_state, sized, place)
        _require_distinct(arm, number, [point for point, _ in own], place)
        models += [(arm, point.label, point.config, choice) for point, choice in own]
        _require_labels([(arm, label) for arm, label, *_ in models], number, place)
    cells = tuple(
        Cell(
            arm.name,
            label,
            config.model_copy(update={"seed": seed}),
            equal_state=choice,
            steps_per_update=experiment.steps_per_update,
        )
        for arm, label, config, choice in models
        for seed in arm.seeds or experiment.seeds
    )
    if experiment.prune is not None and any(not cell.config.train.validate_every for cell in cells):
        raise UsageError(
            f"{place(('prune',))}: prune compares validation returns, and train.validate_every=0 measures "
            "none"
        )
    for number, arm in enumerate(experiment.arms):
        if len(arm.seeds or experiment.seeds) > 1:
            taken = next((c for c in cells if c.arm == arm.name and c.config.train.weights is not None), None)
            if taken is not None:
                raise UsageError(
                    f"{place(('arms', number))}: arm {arm.name!r}: train.weights holds the weights of one "
                    "seed, and the arm has several; write seeds: [0] in the arm"
                )
    _require_distinct_arms(cells, experiment.arms, place)
    reference, labels = experiment.report.reference, dict.fromkeys(cell.label for cell in cells)
    if reference is not None and reference not in labels:
        raise UsageError(
            f"{where}: report.reference={reference!r} is not a model; choose one of: {'; '.join(labels)}"
        )
    return cells


def _require_names_and_seeds(experiment: ExperimentConfig, place: Place) -> None:
    """Arms are told apart by their names, cells of one model by their seeds."""
    for number, arm in enumerate(experiment.arms):
        if any(arm.name == other.name for other in experiment.arms[:number]):
            raise UsageError(
                f"{place(('arms', number, 'name'))}: two arms share the name {arm.name!r}; rename one"
            )
    owners: list[tuple[str, tuple[str | int, ...], Sequence[int]]] = [("", ("seeds",), experiment.seeds)]
    for number, arm in enumerate(experiment.arms):
        owners.append((f"arm {arm.name!r}: ", ("arms", number, "seeds"), arm.seeds or ()))
    for owner, path, seeds in owners:
        if len(set(seeds)) != len(seeds):
            raise UsageError(f"{place(path)}: {owner}a seed is listed twice in seeds={list(seeds)}")


def _require_few_cells(experiment: ExperimentConfig, place: Place) -> None:
    """A grid that no one can run is a slip, and would take long to expand."""
    for number, arm in enumerate(experiment.arms):
        n = math.prod(map(len, arm.grid.values())) * len(arm.seeds or experiment.seeds)
        if n > _MOST_CELLS:
            where = place(("arms", number))
            raise UsageError(f"{where}: arm {arm.name!r} has {n:,} cells; an arm may have {_MOST_CELLS:,}")


def _require_labels(models: Sequence[tuple[Arm, str]], number: int, place: Place) -> None:
    """Two models with one label could not be told apart in any table."""
    seen: dict[str, Arm] = {}
    for arm, label in models:
        other = seen.setdefault(label, arm)
        if other is not arm:
            raise UsageError(
                f"{place(('arms', number, 'name'))}: arms {other.name!r} and {arm.name!r} both have a model "
                f"{label!r} (a grid's values are part of it); rename one"
            )


def _points(arm: Arm) -> Iterator[tuple[str, dict[str, object]]]:
    """Label and grid settings of every point of an arm's grid."""
    for values in itertools.product(*arm.grid.values()):
        point = dict(zip(arm.grid, values, strict=True))
        parts = [setting_in_words(key, value) for key, value in point.items()]
        yield ", ".join([arm.name, *parts]), point


def _config(experiment: ExperimentConfig, number: int, more: Mapping[str, object], place: Place) -> Config:
    """An arm's config with ``more`` settings.  No rule depends on the seed: one does for all seeds."""
    arm = experiment.arms[number]
    settings = {**arm.set, **more}
    wanted = None if _sets_batch_size(settings) else experiment.steps_per_update
    if wanted is not None and "batch_size" in experiment.base.train.model_fields_set:
        raise UsageError(
            f"{place(('steps_per_update',))}: steps_per_update chooses train.batch_size, which base sets "
            "too; leave one of them out"
        )
    try:
        config = experiment.base.with_overrides(settings, f"arm {arm.name!r}")
        if wanted is None:
            return config
        # As many windows an update as make the experiment's steps.
        windows = max(1, round(wanted / config.spec.training_window(config.model)))
        return config.with_overrides({"train.batch_size": windows}, "steps_per_update")
    except UsageError as error:
        raise _placed(error, arm, number, place) from error


def _placed(error: UsageError, arm: Arm, number: int, place: Place) -> UsageError:
    """What is wrong with an arm, with the line of the setting that it names."""
    parts = (("grid", arm.grid), ("set", arm.set))
    named = [(part, key) for part, keys in parts for key in keys if key in str(error)]
    where, text = place(("arms", number, *(named[0] if named else ()))), str(error)
    owner = f"arm {arm.name!r}"
    return UsageError(f"{where}: {text if text.startswith(owner) else f'{owner}: {text}'}")


def _sets_batch_size(settings: Mapping[str, object]) -> bool:
    section = settings.get("train")
    return "train.batch_size" in settings or (isinstance(section, Mapping) and "batch_size" in section)


def _points_of_equal_state(
    experiment: ExperimentConfig, number: int, wanted: EqualState, sized: Sequence[Point], place: Place
) -> list[tuple[Point, Choice | None]]:
    arm = experiment.arms[number]
    where = f"{place(('arms', number, 'equal_state'))}: arm {arm.name!r}: equal_state"
    other = reference_point(wanted, sized, where)
    made: list[tuple[Point, Choice | None]] = []
    for label, grid in _points(arm):
        choice = choose(_config(experiment, number, grid, place), {**arm.set, **grid}, other, where)
        config = _config(experiment, number, {**grid, choice.key: choice.value}, place)
        made.append((Point(arm.name, label, grid, config), choice))
    return made


def _require_distinct(arm: Arm, number: int, points: Sequence[Point], place: Place) -> None:
    """One model must not be reported as two."""
    models: dict[str, Point] = {}
    for point in points:
        try:
            name = Cell(arm.name, point.label, _without_idle(point.config)).evaluation.name
        except UsageError as error:  # a file that it names cannot be read
            raise _placed(error, arm, number, place) from error
        other = models.setdefault(name, point)
        if other is not point:
            key = next(key for key in arm.grid if point.grid[key] != other.grid[key])
            raise UsageError(
                f"{place(('arms', number, 'grid', key))}: arm {arm.name!r}: {other.label!r} and "
                f"{point.label!r} are one model: {key} changes no result there; take it out of the grid"
            )


def _require_distinct_arms(cells: Sequence[Cell], arms: Sequence[Arm], place: Place) -> None:
    """As :func:`_require_distinct`, of two arms; a state that is chosen may turn out to be another's."""
    found: dict[str, Cell] = {}
    for cell in cells:
        other = found.setdefault(cell.evaluation.name, cell) if cell.equal_state is None else cell
        if other.arm != cell.arm:
            number = next(number for number, arm in enumerate(arms) if arm.name == cell.arm)
            raise UsageError(
                f"{place(('arms', number))}: {other.label!r} and {cell.label!r} are one model with seed "
                f"{cell.config.seed}: they have the same settings; take one of them out"
            )


# Settings that have no effect, though a stage's name depends on them, where a rule holds.
_IDLE: tuple[tuple[str, str, Callable[[Config], bool]], ...] = (
    ("evaluation", "temperature", lambda config: config.evaluation.greedy),
    ("train", "muon_learning_rate", lambda config: config.train.optimizer != "muon"),
    ("pretrain", "muon_learning_rate", lambda config: config.pretrain.optimizer != "muon"),
    ("train", "validation_episodes", lambda config: not config.train.validate_every),
    ("train", "validation_rollouts", lambda config: not config.train.validate_every),
)


def _without_idle(config: Config) -> Config:
    """``config`` with the defaults of settings that have no effect in it."""
    for section, key, is_idle in _IDLE:
        if is_idle(config):
            old = getattr(config, section)
            new = old.model_copy(update={key: type(old).model_fields[key].default})
            config = config.model_copy(update={section: new})
    return config


SEED_ADVICE = "seed has no effect there; write seeds: [...] in the experiment or in the arm"


def _require_axes(arm: Arm, number: int, place: Place) -> None:
    """Refuse keys that cannot vary, and axes that are no axes."""

    def here(part: str, key: str) -> str:
        return f"{place(('arms', number, part, key))}: arm {arm.name!r}: {part}: {key}"

    for part, keys in (("set", arm.set), ("grid", arm.grid)):
        if "seed" in keys:
            raise UsageError(f"{here(part, 'seed')}: {SEED_ADVICE}")
    for key, values in arm.grid.items():
        if not values:
            raise UsageError(f"{here('grid', key)} has no values, so that the arm has no cells; list some")
        twice = [one for one, other in itertools.combinations(values, 2) if one == other]  # 1 is 1.0
        if twice:
            raise UsageError(
                f"{here('grid', key)} lists {json.dumps(twice[0], sort_keys=True)} twice; list it once"
            )
    written = [("set", key, name) for key, value in arm.set.items() for name in _settings(key, value)]
    for key, values in arm.grid.items():
        written += [("grid", key, name) for value in values for name in _settings(key, value)]
    pairs = itertools.combinations(dict.fromkeys(written), 2)
    for (part, key, name), (other_part, other_key, other) in pairs:
        shorter, longer = sorted((f"{name}.", f"{other}."), key=len)
        if key != other_key and longer.startswith(shorter):
            also = f"as {key} in {part!r} does; keep one of them"
            raise UsageError(f"{here(other_part, other_key)} sets {longer[:-1]}, {also}")
        if key == other_key and part != other_part:
            raise UsageError(
                f"{here(other_part, key)} is also in {part!r}, which has no effect; keep one of them"
            )


def _settings(key: str, value: object) -> list[str]:
    """Dotted keys of the single settings in the ``value`` of a setting or a section."""
    if not isinstance(value, dict):
        return [key]
    return [name for part, item in value.items() for name in _settings(f"{key}.{part}", item)]


def distinct_stages(
    cells: tuple[Cell, ...], first: StageKind = "histories", last: StageKind = "evaluate"
) -> tuple[Stage, ...]:
    """Every stage of the kinds from ``first`` to ``last`` once, inputs before the stages that need them."""
    kinds = STAGE_KINDS[STAGE_KINDS.index(first) : STAGE_KINDS.index(last) + 1]
    stages = {stage.name: stage for cell in cells for stage in cell.stages if stage.kind in kinds}
    return tuple(stages.values())
