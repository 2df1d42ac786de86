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
    """Models that differ in their tasks only, by rising bits to remember."""

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

    Returns are shares of the optimum of a model's own tasks: sizes compare, single tasks do not.
    """
    bits = {id(model): _bits(model) for model in study.scored}
    if len(set(bits.values())) < 2:
        return []
    groups: dict[str, list[ModelResult]] = {}
    for model in study.scored:
        settings = model.config.model.model_dump_json()
        groups.setdefault(settings, []).append(model)
    kept = [models for models in groups.values() if len({bits[id(model)] for model in models}) > 1]
    keys = differing_keys([models[0].config for models in kept])
    curves = []
    for models in kept:
        by_bits = {bits[id(model)]: model for model in models}
        points = tuple(Load(value, by_bits[value]) for value in sorted(by_bits))
        state = mean_cost(models[0], lambda result: result.state_bytes) or 0.0
        curves.append(Curve(_name(models, keys), state, points))
    return curves


def _bits(model: ModelResult) -> float:
    return round(float(task_family(model.config.env).bits_to_remember), 3)


def _name(models: list[ModelResult], keys: list[str]) -> str:
    """What the names of a curve's arms have in common, and those settings in which the curves differ."""
    by_place = zip(*(model.arm.split() for model in models), strict=False)
    shared = takewhile(lambda same: len(set(same)) == 1, by_place)
    arms = " ".join(same[0] for same in shared).rstrip(",:") or models[0].arm
    settings = flatten(models[0].config)
    chosen = [key for key in keys if key.startswith("model.") and key != "model.kind" and key in settings]
    return ", ".join([arms, *(setting_in_words(key, settings[key]) for key in chosen)])


def capacity_tables(study: Study) -> dict[str, Table]:
    """``capacity``: return by bits to remember."""
    rows: list[tuple[Value, ...]] = [
        (curve.name, point.model.label, point.bits, curve.state_bytes, point.model.score,
         *map(finite, point.model.returns.score_interval), len(point.model.done))
        for curve in capacity_curves(study)
        for point in curve.points
    ]  # fmt: skip
    return table_if_any("capacity", _COLUMNS, rows)
