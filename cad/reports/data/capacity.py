"""Return by how much a task makes a model remember, one curve a model that is the same in all tasks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

from cad.config import flatten
from cad.config.words import setting_in_words
from cad.envs.registry import task_family
from cad.reports.data.costs import mean_cost
from cad.reports.data.grid import differing_keys
from cad.reports.data.model_result import ModelResult
from cad.reports.data.study import Study
from cad.reports.data.tables import Table, Value, finite, table_if_any

_COLUMNS = (
    "model", "label", "bits_to_remember", "state_bytes", "normalised_last10", "low_95", "high_95", "n_seeds",
)  # fmt: skip


@dataclass(frozen=True)
class Load:
    """A model in tasks of one size."""

    bits: float  # that a task makes an agent remember
    model: ModelResult


@dataclass(frozen=True)
class Curve:
    """Models with one section ``model``, by rising bits to remember."""

    name: str
    state_bytes: float
    points: tuple[Load, ...]

    def most_bits(self, share: float) -> float | None:
        """Bits of the hardest tasks up to which the return is at least ``share``; None where it is never."""
        reached = None
        for point in self.points:
            if (point.model.score or 0.0) < share:
                break
            reached = point.bits
        return reached


def capacity_curves(study: Study) -> list[Curve]:
    """A curve for each model that was trained on tasks of several sizes; empty where tasks are one size.

    Models on one curve have one section ``model``; how long and how they were trained may go with the size of
    the task.  Where several of them are of one size, each has a curve of its own, with those of other sizes
    that agree with it in what they differ in, or with none of them.  Returns are shares of the optimum of a
    model's own tasks: sizes compare, single tasks do not.
    """
    parts = [part for part in _parts(study) if len(part.models) > 1]
    keys = differing_keys([part.models[0].config for part in parts])
    curves = []
    for part in parts:
        points = tuple(Load(_bits(model), model) for model in sorted(part.models, key=_bits))
        state = mean_cost(points[0].model, lambda result: result.state_bytes) or 0.0
        curves.append(Curve(_name(part, keys), state, points))
    return curves


def without_a_curve(study: Study) -> int:
    """How many models are of one size alone, though others with their section ``model`` are of another."""
    parts = _parts(study)
    drawn = {id(model) for part in parts if len(part.models) > 1 for model in part.models}
    return len({id(model) for part in parts for model in part.models} - drawn)


@dataclass(frozen=True)
class _Part:
    """Models of different sizes, the model that it was made for, and what parts it from others."""

    models: list[ModelResult]
    owner: ModelResult
    keys: tuple[str, ...]


def _parts(study: Study) -> list[_Part]:
    """Of all models whose section ``model`` is that of another size's too."""
    groups: dict[str, list[ModelResult]] = {}
    for model in study.scored:
        groups.setdefault(model.config.model.model_dump_json(), []).append(model)
    kept = [models for models in groups.values() if len(set(map(_bits, models))) > 1]
    return [part for models in kept for part in _parted(models)]


def _parted(models: list[ModelResult]) -> list[_Part]:
    """The models in parts that have at most one of each size; none is in no part."""
    by_size: dict[float, list[ModelResult]] = {}
    for model in models:
        by_size.setdefault(_bits(model), []).append(model)
    several = [alike for alike in by_size.values() if len(alike) > 1]
    keys = sorted({key for alike in several for key in differing_keys([model.config for model in alike])})
    settings = {id(model): flatten(model.config) for model in models}

    def values(model: ModelResult) -> tuple[str, ...]:
        return (model.experiment, *(repr(settings[id(model)].get(key)) for key in keys))

    owners: dict[tuple[str, ...], ModelResult] = {}
    for model in models:
        if len(by_size[_bits(model)]) > 1:
            owners.setdefault(values(model), model)
    if not owners:
        return [_Part(models, models[0], ())]
    parts = []
    for own, owner in owners.items():
        chosen = []
        for alike in by_size.values():
            fitting = [model for model in alike if values(model) == own]
            if not fitting and len(alike) == 1 and values(alike[0]) not in owners:
                fitting = alike
            chosen += fitting[:1]
        parts.append(_Part(chosen, owner, tuple(keys)))
    return parts


def _bits(model: ModelResult) -> float:
    return round(float(task_family(model.config.env).bits_to_remember), 3)


def _name(part: _Part, keys: list[str]) -> str:
    """What the names of a curve's arms have in common, and those settings in which the curves differ."""
    arms = _shared_name([model.arm.removeprefix(f"{model.experiment}: ") for model in part.models])
    settings = flatten(part.owner.config)
    chosen = [key for key in keys if key.startswith("model.") and key != "model.kind" and key in settings]
    chosen += [key for key in part.keys if key not in chosen and key in settings]
    name = ", ".join([arms, *(setting_in_words(key, settings[key]) for key in chosen)])
    experiments = {model.experiment for model in part.models}
    return f"{part.owner.experiment}: {name}" if experiments != {""} and len(experiments) == 1 else name


def _shared_name(arms: list[str]) -> str:
    """The words that all names begin with, else the parts between commas that all have; else the first."""
    by_place = zip(*(arm.split() for arm in arms), strict=False)
    beginning = " ".join(same[0] for same in takewhile(lambda same: len(set(same)) == 1, by_place))
    parts = [part for part in arms[0].split(", ") if all(part in arm.split(", ") for arm in arms)]
    return beginning.rstrip(",:") or ", ".join(parts) or arms[0]


def capacity_tables(study: Study) -> dict[str, Table]:
    """``capacity``: return by bits to remember."""
    rows: list[tuple[Value, ...]] = [
        (curve.name, point.model.label, point.bits, curve.state_bytes, point.model.score,
         *map(finite, point.model.returns.score_interval), len(point.model.done))
        for curve in capacity_curves(study)
        for point in curve.points
    ]  # fmt: skip
    return table_if_any("capacity", _COLUMNS, rows)
