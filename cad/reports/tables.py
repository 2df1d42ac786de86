"""The report's numbers as tables: one form for CSV and JSON (exact), one for people (rounded)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cad.reports import cost_figures, differences, finding, lasting, marginals, profile_figure, side_by_side
from cad.reports.aggregate import FEW_SEEDS, CellSummary, Group, Study, grid_panels
from cad.reports.figures import goal_text
from cad.reports.region_figure import choosing_groups, closed_regions, counts
from cad.reports.results import CellResult
from cad.reports.training_figures import metric_table
from cad.storage import sha256_json

Value = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Exact numbers behind a figure; None where unknown."""

    columns: tuple[str, ...]
    rows: list[tuple[Value, ...]]

    def as_csv(self) -> str:
        """Floats with all their digits, unknown as nothing."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(["" if value is None else _exact(value) for value in row] for row in self.rows)
        return text.getvalue()

    def as_json(self) -> dict[str, Any]:
        """Columns and rows."""
        return {"columns": list(self.columns), "rows": [list(row) for row in self.rows]}


def _exact(value: Value) -> str:
    return repr(float(value)) if isinstance(value, float) else str(value)


def finite(value: float | None) -> float | None:
    """A Python float, or None for what JSON cannot say."""
    return float(value) if value is not None and math.isfinite(value) else None


def cell_record(cell: CellSummary) -> dict[str, Any]:
    """One cell and seed in ``report.json``."""
    result = cell.result
    model = result.config.model
    compressed = model.has_latents
    return {
        "label": result.label,
        "arm": result.arm,
        "model": model.kind,
        "window": model.uncompressed_steps,
        "max_compression_depth": model.max_compression_depth if compressed else None,
        "n_latent": model.n_latent if compressed else None,
        "seed": result.config.seed,
        "status": cell.status,
        "return_first_episode": cell.return_first_episode,
        "return_last10": cell.return_last10,
        "normalised_last10": cell.normalised_last10,
        "normalised_iqm": cell.normalised_iqm,
        "normalised_history10": cell.normalised_history10,
        "per_task": [
            {
                "task_id": int(task.task_id),
                "goal": [int(part) for part in task.goal],
                "optimum": task.optimum,
                "normalised_last10": task.normalised_last10,
                "never_found": task.never_found,
            }
            for task in cell.per_task
        ],
        "n_tasks": None if cell.normalised is None else cell.normalised.shape[0],
        "n_rollouts": None if cell.normalised is None else cell.normalised.shape[1],
        "n_episodes": None if cell.normalised is None else cell.normalised.shape[2],
        "returns_sha256": cell.returns_sha256,
        "compressions": cell.compressions,
        "state_bytes": result.state_bytes,
        "n_parameters": result.n_parameters,
        "updates": result.updates,
        "supervised_actions": result.supervised_actions,
        "core_minutes": finite(result.core_minutes),
        "train_seconds": finite(result.train_seconds),
        "evaluation_seconds": finite(result.evaluation_seconds),
        "evaluation_steps_per_second": finite(result.evaluation_steps_per_second),
    }


TIMINGS = ("core_minutes", "train_seconds", "evaluation_seconds", "evaluation_steps_per_second")


def fingerprint(study: Study, tables: dict[str, Table]) -> str:
    """SHA-256 over every number that a second run must repeat: all but timings."""
    cells = [
        {key: value for key, value in cell_record(cell).items() if key not in TIMINGS} for cell in study.cells
    ]
    for cell in cells:  # a failure's message may name a path
        cell["status"] = str(cell["status"]).split(":", maxsplit=1)[0]
    exact = {name: table.as_json() for name, table in tables.items() if name not in ("cost", "pareto")}
    exact.pop("cells", None)
    return sha256_json({"cells": cells, "tables": exact})


def data_tables(study: Study) -> dict[str, Table]:
    """Everything that figures plot, by CSV file stem."""
    records = [cell_record(cell) for cell in study.cells]
    flat = [key for key in cell_record_keys() if key != "per_task"]
    tables = {"cells": Table(tuple(flat), [tuple(record[key] for key in flat) for record in records])}
    tables["per_task"] = Table(
        ("label", "seed", "task_id", "goal", "optimum", "normalised_last10", "never_found"),
        [
            (cell.result.label, cell.result.config.seed, int(task.task_id), goal_text(task.goal),
             task.optimum, task.normalised_last10, task.never_found)
            for cell in study.cells for task in cell.per_task
        ],
    )  # fmt: skip
    tables["return_by_episode"] = Table(
        ("label", "seed", "episode", "normalised_return", "low_95", "high_95"),
        [row for group in study.scored for row in _curve_rows(group)],
    )
    tables["source"] = Table(
        ("episode", "normalised_return"),
        []
        if study.source is None
        else [(i + 1, float(value)) for i, value in enumerate(study.source.mean(axis=0))],
    )
    tables["depth_latents"] = Table(
        ("panel", "label", "depth", "latents", "window", "normalised_last10", "low_95", "high_95", "n_seeds",
         "n_cells"),
        [
            (title, group.label, group.depth, group.n_latent, group.window, group.score,
             *(map(finite, group.score_interval) if group.done else (None, None)), len(group.done),
             len(group.cells))
            for title, group in _grid_groups(study)
        ],
    )  # fmt: skip
    tables["models"] = Table(_MODEL_COLUMNS, [_model_row(group) for group in study.groups])
    costs = ("label", "seed", "normalised_last10", "n_parameters", "state_bytes", "updates",
             "supervised_actions", *TIMINGS)  # fmt: skip
    tables["cost"] = Table(costs, [tuple(record[key] for key in costs) for record in records])
    tables["training"] = Table(*metric_table(study, lambda result: result.metrics))
    optional = {
        "pretraining": metric_table(study, lambda result: result.pretrain_metrics),
        "side_by_side": (side_by_side.COLUMNS, side_by_side.rows(study)),
        "differences": (differences.COLUMNS, differences.rows(study)),
        "profile": (profile_figure.COLUMNS, profile_figure.rows(study)),
        "marginals": (marginals.COLUMNS, marginals.rows(study)),
        "pareto": (cost_figures.COLUMNS, cost_figures.rows(study)),
        "never_found": (finding.COLUMNS, finding.rows(study)),
        "found": (finding.CURVE_COLUMNS, finding.curve_rows(study)),
        "return_by_compressions": (lasting.COLUMNS, lasting.rows(study)),
    }
    tables |= {name: Table(columns, list(rows)) for name, (columns, rows) in optional.items() if rows}
    if choosing := choosing_groups(study):
        for name, value, part in (("region_moments", "step", 0), ("region_lengths", "length", 1)):
            tables[name] = Table(
                ("label", "seed", value, "closed_by_model", "closed_with_full_window"),
                [
                    (group.label, cell.result.config.seed, *row)
                    for group in choosing
                    for cell in group.done
                    for row in counts(closed_regions(cell), part)
                ],
            )
    return tables


def cell_record_keys() -> tuple[str, ...]:
    """Keys of a cell in ``report.json``, in order."""
    return (
        "label", "arm", "model", "window", "max_compression_depth", "n_latent", "seed", "status",
        "return_first_episode", "return_last10", "normalised_last10", "per_task", "n_tasks", "n_rollouts",
        "n_episodes", "returns_sha256", "compressions", "state_bytes", "n_parameters",
        "normalised_iqm", "normalised_history10", "updates", "supervised_actions", *TIMINGS,
    )  # fmt: skip


def _grid_groups(study: Study) -> list[tuple[str, Group]]:
    inside = [(panel.title, group) for panel in grid_panels(study) for group in panel.spots.values()]
    return inside + [(group.arm, group) for group in study.groups if group.is_ad]


_MODEL_COLUMNS = (
    "label", "mean", "mean_low_95", "mean_high_95", "iqm", "iqm_low_95", "iqm_high_95",
    "mean_at_history_end", "never_found", "n_seeds", "n_cells",
)  # fmt: skip


def _model_row(group: Group) -> tuple[Value, ...]:
    """Numbers of one model over its seeds; None where none is done."""
    numbers: list[float | None] = [None] * 8
    if group.done:
        history = group.history_scores
        never = [task.never_found for task in group.task_scores]
        numbers = [
            group.score, *group.score_interval, group.iqm, *group.iqm_interval,
            None if history is None else float(history.mean()), sum(never) / len(never),
        ]  # fmt: skip
    return (group.label, *map(finite, numbers), len(group.done), len(group.cells))


def _curve_rows(group: Group) -> list[tuple[Value, ...]]:
    """Rows of each seed, and with seed "mean" those of the line and band that are drawn."""
    rows: list[tuple[Value, ...]] = []
    low, high = group.band
    for i, value in enumerate(group.curve):
        rows.append((group.label, "mean", i + 1, float(value), finite(low[i]), finite(high[i])))
    for cell, curve in zip(group.done, group.seed_curves, strict=True):
        seed = cell.result.config.seed
        rows.extend((group.label, seed, i + 1, float(value), None, None) for i, value in enumerate(curve))
    return rows


@dataclass(frozen=True)
class Shown:
    """A cell of a table for people: its text, and what it sorts by."""

    text: str
    key: float | str | None
    numeric: bool = True


@dataclass(frozen=True)
class ShownTable:
    """A table for people."""

    name: str
    caption: str
    headers: tuple[str, ...]
    rows: Sequence[tuple[Shown, ...]]


def words(text: str) -> Shown:
    """A text cell, control characters gone."""
    text = " ".join(text.split())
    return Shown(text, text, numeric=False)


def number(value: float | None, form: str = ".3f", scale: float = 1.0) -> Shown:
    """A number cell; a dash where unknown."""
    if value is None or not math.isfinite(value):
        return Shown("-", None)
    return Shown(format(value * scale, form), float(value))


def interval(ends: tuple[float, float], sign: str = "") -> Shown:
    """Both ends of an interval; a dash where there is none."""
    low, high = ends
    return Shown(f"{low:{sign}.3f} to {high:{sign}.3f}", low) if math.isfinite(low) else Shown("-", None)


def results_table(study: Study) -> ShownTable:
    """Groups with means, intervals and single seeds; those without a result too."""
    few = any(1 < len(group.done) <= FEW_SEEDS for group in study.scored)
    long = lasting.is_long(study)
    at_history = tuple(dict.fromkeys(f"episodes {max(1, g.history - 9)}-{g.history}" for g in study.scored))[
        :1
    ]
    headers = ("model", "window", "depth", "latents", "return / optimum", "95% interval", "IQM",
               "95% interval of the IQM", *(at_history if long else ()), "first episode", "lowest task",
               "seeds", *(("single seeds",) if few else ()))  # fmt: skip
    rows = []
    for group in study.groups:
        cells = [
            words(group.label),
            number(group.window, ".0f"),
            number(group.depth, ".0f"),
            number(group.n_latent, ".0f"),
            number(group.score),
        ]
        if group.done:
            history = group.history_scores
            cells += [
                interval(group.score_interval),
                number(group.iqm),
                interval(group.iqm_interval),
                *([number(None if history is None else float(history.mean()))] if long else []),
                number(float(group.curve[0])),
                number(min(task.normalised_last10 for task in group.task_scores)),
            ]
        else:
            cells += [number(None)] * (len(headers) - len(cells) - 1 - few)
        cells.append(Shown(f"{len(group.done)} of {len(group.cells)}", float(len(group.done))))
        if few:
            cells.append(Shown(" ".join(f"{score:.3f}" for score in group.seed_scores) or "-", group.score))
        rows.append(tuple(cells))
    return ShownTable("results", "Normalised return over the last episodes, all models", headers, rows)


def goals_table(study: Study) -> ShownTable | None:
    """Groups x evaluated tasks; None without equal tasks."""
    if not study.scored or not study.comparable:
        return None
    tasks = study.scored[0].task_scores
    rows = []
    for group in study.scored:
        scores = {task.task_id: task.normalised_last10 for task in group.task_scores}
        rows.append((words(group.label), *(number(scores[task.task_id]) for task in tasks)))
    headers = (
        "model",
        *(goal_text(task.goal).replace(" ", "\u00a0") + f" {task.optimum:g}" for task in tasks),
    )
    return ShownTable(
        "goals-table",
        f"Normalised return on each {study.task_kind} goal; beside the goal its optimum",
        headers,
        rows,
    )


def cost_table(study: Study) -> ShownTable:
    """Means over done seeds of what a model costs."""
    rows = [
        (
            words(group.label),
            number(group.score),
            number(group.mean(lambda r: r.n_parameters), ",.0f"),
            number(group.mean(lambda r: r.state_bytes), ",.1f", 1 / 1024),
            number(group.mean(lambda r: r.updates), ",.0f"),
            number(group.mean(lambda r: r.supervised_actions), ",.2f", 1e-6),
            number(group.mean(lambda r: r.core_minutes), ",.1f"),
            number(group.mean(_minutes_before), ",.1f"),
            number(group.mean(lambda r: r.evaluation_steps_per_second), ",.0f"),
            number(_mean_compressions(group), ",.1f"),
        )
        for group in study.groups
    ]
    headers = ("model", "return / optimum", "parameters", "state, KiB a roll-out", "updates",
               "supervised actions, millions", "training, core-minutes", "of it before its own training",
               "evaluation, steps / s", "compressions a roll-out")  # fmt: skip
    return ShownTable(
        "cost-table",
        "What each model costs, means over done seeds; with the pre-training or the AD that it starts from",
        headers,
        rows,
    )


def _minutes_before(result: CellResult) -> float | None:
    """Core-minutes of what a training started from; None where unknown."""
    if result.core_minutes is None:
        return None
    return sum((part.seconds or 0.0) * part.cores / 60 for part in result.parts[:-1])


def _mean_compressions(group: Group) -> float | None:
    values = [cell.compressions for cell in group.done if cell.compressions is not None]
    return sum(values) / len(values) if values else None


def config_table(study: Study, keys: Sequence[str], values: Sequence[dict[str, Any]]) -> ShownTable:
    """What differs between groups; ``values`` are the groups' flat configs."""
    rows = [
        (words(group.label), *(words(str(flat[key])) for key in keys))
        for group, flat in zip(study.groups, values, strict=True)
    ]
    return ShownTable("config-table", "Settings that differ between models", ("model", *keys), rows)
