"""A return that somebody stated is not called the optimum, and raw returns are no shares of anything."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from cad.reports import write_report
from cad.reports.data.results import SourceCurve
from cad.reports.data.study import make_study
from cad.schema import ReportConfig

ENV = {"name": "gymnasium", "id": "FrozenLake-v1", "horizon": 20, "n_heldout": 8, "n_validation": 1}


@pytest.fixture
def page_of(quickstart, origin, tmp_path):
    """Text and figures' words of the report of the quickstart's cells in another family."""

    def make(reference: float | None) -> str:
        tasks = [{"seed": seed} for seed in range(80)]
        env = {**ENV, "tasks": tasks, "reference_return": reference}
        cells = [
            dataclasses.replace(
                cell, config=cell.config.with_overrides({"env": env}, "test"),
                optimal=(reference or 1.0,) * 8, goals=((),) * 8,
            )
            for cell in quickstart
        ]  # fmt: skip
        write_report("r", ReportConfig(), cells, None, origin, tmp_path, figures=False)
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        return re.sub(r"\s+", " ", page)

    return make


def test_source_agents_are_scored_as_models_are(quickstart):
    env = {**ENV, "tasks": [{"seed": seed} for seed in range(80)], "reference_return": 20, "random_return": 5}
    cell = dataclasses.replace(
        quickstart[0], config=quickstart[0].config.with_overrides({"env": env}, "test"), optimal=(20.0,) * 8
    )
    returns = np.tile([5.0, 12.5, 20.0], (8, 1))
    study = make_study("r", "", "", [cell], SourceCurve(cell.task_ids, returns))
    assert study.source.tolist() == [[0, 0.5, 1]] * 8
    models = (cell.returns.astype(np.float64) - 5) / 15
    assert study.cells[0].normalised.tolist() == models.tolist()


def test_a_stated_return_is_called_that(page_of):
    page = page_of(20.0)
    assert "of the reference return over the last 10 of 50 episodes" in page
    assert "return / reference" in page and "90% of the reference return" in page
    # A task by its number and its settings, not by a goal that it does not have.
    assert "is lowest on task 62 (FrozenLake-v1: seed 62), with 0.64;" in page
    assert "Return on each held-out task" in page and "How soon the first reward comes" in page
    assert ">38 (FrozenLake-v1: seed 38)<" in page and "(())" not in page
    # Once, to say that it is not known.
    assert re.findall(r"[^.>]*optimum[^.<]*", page) == [
        "The optimum is not known: returns are divided by a stated reference_return of 20"
    ]


def test_raw_returns_are_shares_of_nothing(page_of):
    page = page_of(None)
    assert "Best CompressedAD (window 40, depth 3, 16 latents) reaches 15." in page
    assert "given as it is" in page
    # No level between 0 and 1 means anything, nor does a scale of 1 beside a task.
    assert "that reach" not in page and "Performance profile" not in page and "are below 0.6" not in page
    assert "beside the task" not in page and "Return on each held-out task" in page
    assert re.findall(r"[^.>]*optimum[^.<]*", page) == [
        "The optimum is not known: returns are divided by 1, that is, shown as they are, as no env"
    ]
