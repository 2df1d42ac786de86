"""Return by a setting of the environment that differs in roll-outs, such as the length of a corridor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from cad.envs.config import EnvConfig
from cad.reports.data.model_result import ModelResult
from cad.reports.data.study import Study
from cad.reports.data.tables import Table, Value, finite, table_if_any

_COLUMNS = (
    "model", "label", "setting", "value", "trained_at", "lower_values_too", "normalised_last10", "low_95",
    "high_95", "lowest_task", "n_seeds",
)  # fmt: skip


@dataclass(frozen=True)
class ReachPoint:
    """A model in an environment with one value of a setting.

    ``mixed``: as it was trained, with episodes of that value and of lower ones.
    """

    value: int
    model: ModelResult
    mixed: bool

    @property
    def words(self) -> str:
        """Where that is, after a return."""
        return f"as trained, with up to {self.value:,}" if self.mixed else f"at {self.value:,}"


@dataclass(frozen=True)
class Reach:
    """One training, evaluated at several values of a setting of ``evaluation.env``, by rising value."""

    name: str
    setting: str
    own_value: int  # in training
    trained_at: str  # in words
    points: tuple[ReachPoint, ...]

    def holds_to(self, share: float) -> int:
        """How many of the points, from the first on, have a return of at least ``share``."""
        return sum(1 for _ in takewhile(lambda point: (point.model.score or 0.0) >= share, self.points))


def reaches(study: Study) -> list[Reach]:
    """Each model that was evaluated at two values or more of one setting, its own one included.

    One that was evaluated at values of several settings has a curve for each of them.
    """
    groups: dict[tuple[str, str, str], list[ModelResult]] = {}
    for model in study.models:
        changed = model.config.evaluation.env or {}
        shown = model.config.evaluation.demonstrated_episodes
        if model.score is not None and len(changed) <= 1 and not shown:
            evaluation = model.config.evaluation.model_copy(update={"env": None})
            plain = model.config.model_copy(update={"evaluation": evaluation, "seed": 0})
            groups.setdefault((model.experiment, model.arm, plain.model_dump_json()), []).append(model)
    found = []
    for models in groups.values():
        settings = dict.fromkeys(key for model in models for key in model.config.evaluation.env or {})
        found += [reach for key in settings if len((reach := _reach(models, key)).points) > 1]
    return found


def _reach(models: Sequence[ModelResult], key: str) -> Reach:
    env = models[0].config.env
    own, mixed = _value(env, key), env.is_mixed(key)
    points = [ReachPoint(own, model, mixed) for model in models if not model.config.evaluation.env]
    for model in models:
        value = _value(model.config.evaluated_env, key)
        # One that is evaluated as it was trained, once more, is no other point.
        known = {point.value for point in points if not point.mixed}
        if key in (model.config.evaluation.env or {}) and value not in known:
            points.append(ReachPoint(value, model, mixed=False))
    points.sort(key=lambda point: (point.value, not point.mixed))
    one = next(model for model in models if key in (model.config.evaluation.env or {}))
    return Reach(_name(one, key), key, own, f"up to {own:,}" if mixed else f"{own:,}", tuple(points))


def _value(env: EnvConfig, key: str) -> int:
    return int(env.steps_per_episode if key == "horizon" else getattr(env, key))


def _name(model: ModelResult, key: str) -> str:
    """The label without what the grid's value, its last part, adds to it."""
    parts, added = model.label.split(", "), f"{key} {_value(model.config.evaluated_env, key):,}"
    if added in parts[1:]:
        del parts[len(parts) - 1 - parts[::-1].index(added)]
    return ", ".join(parts)


def reach_tables(study: Study) -> dict[str, Table]:
    """``reach``: return by the value of the setting."""
    rows: list[tuple[Value, ...]] = [
        (reach.name, point.model.label, reach.setting, point.value, reach.own_value,
         int(point.mixed), point.model.score, *map(finite, point.model.returns.score_interval),
         min(task.normalised_last10 for task in point.model.task_scores), len(point.model.done))
        for reach in reaches(study)
        for point in reach.points
    ]  # fmt: skip
    return table_if_any("reach", _COLUMNS, rows)
