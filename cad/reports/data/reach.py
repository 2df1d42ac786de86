"""Return by a setting of the environment that differs in roll-outs, such as the length of a corridor."""

from __future__ import annotations

from dataclasses import dataclass

from cad.reports.data.model_result import ModelResult
from cad.reports.data.study import Study
from cad.reports.data.tables import Table, Value, finite, table_if_any

_COLUMNS = (
    "model", "label", "setting", "value", "trained_at", "normalised_last10", "low_95", "high_95",
    "lowest_task", "n_seeds",
)  # fmt: skip


@dataclass(frozen=True)
class Reach:
    """One training, evaluated at several values of a setting of ``evaluation.env``, by rising value."""

    name: str
    setting: str
    trained_at: int
    points: tuple[tuple[int, ModelResult], ...]

    def holds_to(self, share: float) -> int | None:
        """The largest value up to which the return is at least ``share`` at all values; None if at none."""
        reached = None
        for value, model in self.points:
            if (model.score or 0.0) < share:
                break
            reached = value
        return reached


def reaches(study: Study) -> list[Reach]:
    """Each model that was evaluated at two values or more of one setting, its own one included."""
    groups: dict[tuple[str, str], list[ModelResult]] = {}
    for model in study.models:
        changed = model.config.evaluation.env or {}
        shown = model.config.evaluation.demonstrated_episodes
        if model.score is not None and len(changed) <= 1 and not shown:
            evaluation = model.config.evaluation.model_copy(update={"env": None})
            plain = model.config.model_copy(update={"evaluation": evaluation, "seed": 0})
            groups.setdefault((model.arm, plain.model_dump_json()), []).append(model)
    found = []
    for models in groups.values():
        settings = {key for model in models for key in model.config.evaluation.env or {}}
        if len(settings) != 1:
            continue
        key = settings.pop()
        by_value = {_value(model, key): model for model in models}
        if len(by_value) > 1:
            points = tuple((value, by_value[value]) for value in sorted(by_value))
            one = next(model for model in models if model.config.evaluation.env)
            found.append(Reach(_name(one, key), key, _trained_at(one, key), points))
    return found


def _value(model: ModelResult, key: str) -> int:
    return int(getattr(model.config.evaluated_env, key))


def _trained_at(model: ModelResult, key: str) -> int:
    env = model.config.env
    return int(env.steps_per_episode if key == "horizon" else getattr(env, key))


def _name(model: ModelResult, key: str) -> str:
    """The label without what the grid's value adds to it."""
    return model.label.replace(f", {key} {_value(model, key):,}", "")


def reach_tables(study: Study) -> dict[str, Table]:
    """``reach``: return by the value of the setting."""
    rows: list[tuple[Value, ...]] = [
        (reach.name, model.label, reach.setting, value, reach.trained_at, model.score,
         *map(finite, model.returns.score_interval),
         min(task.normalised_last10 for task in model.task_scores), len(model.done))
        for reach in reaches(study)
        for value, model in reach.points
    ]  # fmt: skip
    return table_if_any("reach", _COLUMNS, rows)
