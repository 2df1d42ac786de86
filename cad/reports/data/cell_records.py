"""The record of one cell in ``report.json``, and the fingerprint of all numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cad.reports.data.cells import CellSummary
from cad.reports.data.model_facts import model_facts
from cad.reports.data.study import Study
from cad.reports.data.tables import Table, finite
from cad.storage import sha256_json

TIMINGS = ("core_minutes", "train_seconds", "evaluation_seconds", "evaluation_steps_per_second")
_TIMED = ("cells", "cost", "pareto")
# Tables that came later and follow from the returns: a report's fingerprint stays what it was.
_LATER = (
    "capacity", "demonstration", "demonstration_by_episode", "demonstration_recall", "depth_by_compressions",
    "equal_state", "knock_out", "reach",
)  # fmt: skip
_WITHOUT = (*_TIMED, *_LATER)
_COLUMNS = (
    "label", "arm", "model", "window", "max_compression_depth", "n_latent", "seed", "status",
    "return_first_episode", "return_last10", "normalised_last10", "n_tasks", "n_rollouts",
    "n_episodes", "returns_sha256", "compressions", "state_bytes", "n_parameters",
    "normalised_iqm", "normalised_history10", "updates", "supervised_actions", *TIMINGS,
)  # fmt: skip


def cell_record(cell: CellSummary) -> dict[str, Any]:
    """One cell and seed in ``report.json``."""
    result = cell.result
    facts = model_facts(result.config)
    return {
        "label": result.label,
        "arm": result.arm,
        "model": result.config.model.kind,
        "window": facts.window,
        "max_compression_depth": facts.depth,
        "n_latent": facts.n_latent,
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
                "never_found": finite(task.never_found),
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


def cell_tables(study: Study) -> dict[str, Table]:
    """``cells``: the records but for the tasks; ``cost``: what each cell cost."""
    records = [cell_record(cell) for cell in study.cells]
    costs = ("label", "seed", "normalised_last10", "n_parameters", "state_bytes", "updates",
             "supervised_actions", *TIMINGS)  # fmt: skip
    return {
        name: Table(columns, [tuple(record[key] for key in columns) for record in records])
        for name, columns in (("cells", _COLUMNS), ("cost", costs))
    }


def fingerprint(study: Study, tables: Mapping[str, Table]) -> str:
    """SHA-256 over every number that a second run must repeat: all but timings."""
    cells = [
        {key: value for key, value in cell_record(cell).items() if key not in TIMINGS} for cell in study.cells
    ]
    for cell in cells:  # the message of a failure may name a path
        cell["status"] = str(cell["status"]).split(":", maxsplit=1)[0]
    exact = {name: table.as_json() for name, table in tables.items() if name not in _WITHOUT}
    return sha256_json({"cells": cells, "tables": exact})
