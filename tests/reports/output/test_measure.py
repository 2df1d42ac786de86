"""A return that somebody stated is not called the optimum, and raw returns are no shares of anything."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from cad.reports import figures, make_study, write_report
from cad.reports.data.cells import summarise_cell
from cad.reports.data.first_reward import first_rewards
from cad.reports.data.results import SourceCurve
from cad.reports.data.statistics import mean_interval
from cad.reports.questions import failures, reach
from cad.schema import ReportConfig

ENV = {"name": "gymnasium", "id": "FrozenLake-v1", "horizon": 20, "n_heldout": 8, "n_validation": 1}


def in_gymnasium(cells, reference: float | None, shift: float = 0.0, **more: object):
    """The cells as if their environment were one of Gymnasium's; without the figures of training."""
    tasks = [{"seed": seed} for seed in range(80)]
    env = {**ENV, "tasks": tasks, "reference_return": reference, **more}
    return [
        dataclasses.replace(
            cell, config=cell.config.with_overrides({"env": env}, "test"), metrics=None,
            optimal=(reference or 1.0,) * 8, goals=((),) * 8, returns=cell.returns + shift,
        )
        for cell in cells
    ]  # fmt: skip


@pytest.fixture
def page_of(quickstart, origin, tmp_path):
    """Text and figures' words of the report of two of the quickstart's cells in another family."""

    def make(reference: float | None, shift: float = 0.0, **more: object) -> str:
        cells = in_gymnasium([quickstart[0], quickstart[4]], reference, shift, **more)
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
    assert "Return on each held-out task" in page
    assert "How soon" not in page  # rewards of an unknown sign do not tell
    assert ">38 (FrozenLake-v1: seed 38)<" in page and "(())" not in page
    # Once, to say that it is not known.
    assert re.findall(r"[^.>]*optimum[^.<]*", page) == [
        "The optimum is not known: returns are divided by a stated reference_return of 20"
    ]


def test_how_the_numbers_were_made_has_both_stated_returns(page_of):
    made = page_of(20.0, random_return=0.5).partition("How the numbers were made")[2]
    assert (
        "A return is the sum of rewards of one episode; it is divided by a stated reference_return of 20, "
        "both counted from a random_return of 0.5."
    ) in made


def test_raw_returns_are_shares_of_nothing(page_of):
    page = page_of(None)
    assert re.search(r"CompressedAD.{0,50} reaches 15\.", page)
    assert "given as it is" in page
    # No level between 0 and 1 means anything, nor does a scale of 1 beside a task.
    assert "that reach" not in page and "Performance profile" not in page and "are below 0.6" not in page
    assert "beside the task" not in page and "Return on each held-out task" in page
    assert "ormalised return" not in page
    assert re.findall(r"[^.>]*optimum[^.<]*", page) == [
        "The optimum is not known: returns are divided by 1, that is, shown as they are, as no env"
    ]


@pytest.mark.parametrize("reference", [None, 20.0])
def test_intervals_of_returns_without_bounds_are_not_cut_at_0_and_1(page_of, quickstart, reference):
    """All returns are negative: an interval that ends at 1 would be made up."""
    page = page_of(reference, -300.0)
    best = max(
        (cell for cell in quickstart if "Compressed" in cell.label), key=lambda cell: cell.returns.mean()
    )
    scores = (best.returns[:, :, -10:].mean(axis=(1, 2)) - 300.0) / (reference or 1.0)
    low, high = (float(end[0]) for end in mean_interval(scores[None, :, None], False))
    assert low < scores.mean() < high < 0
    assert f"95% interval {low:.2f} to {high:.2f} over tasks" in page


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"reward_values": [0, 1]}, True),
        ({"reward_values": [0, 1], "random_return": 5.0}, True),
        ({"reward_values": [-1, 1]}, False),
        ({"reference": None}, False),
    ],
)
def test_what_never_got_a_reward_is_said_only_where_returns_tell(quickstart, settings, told):
    cells = in_gymnasium(quickstart, **{"reference": 20.0, **settings})
    sentence = failures.SECTION.sentence(make_study("r", "", "", cells, None))
    assert ("never got a reward" in sentence) == told


def test_a_return_is_a_reward_wherever_scores_begin(quickstart):
    """A score of 0 is a return of ``random_return``, which was rewarded."""
    tasks = [{"seed": seed} for seed in range(80)]
    env = {**ENV, "tasks": tasks, "reference_return": 20, "random_return": 5, "reward_values": [0, 1]}
    config = quickstart[0].config.with_overrides({"env": env}, "test")
    returns = np.zeros((8, 2, 3))
    returns[0, 0], returns[1, 0] = (0, 0, 2), (4, 0, 0)
    cell = dataclasses.replace(quickstart[0], config=config, optimal=(20.0,) * 8, returns=returns)
    summary = summarise_cell(cell)
    assert first_rewards(summary)[:2].tolist() == [[3, np.inf], [1, np.inf]]
    assert [task.never_found for task in summary.per_task[:3]] == [0.5, 0.5, 1]
    floats = config.with_overrides({"env.reward_values": None}, "test")
    summary = summarise_cell(dataclasses.replace(cell, config=floats))
    assert first_rewards(summary) is None
    assert np.isnan(summary.per_task[0].never_found)


def test_axes_hold_what_exceeds_a_stated_return_or_falls_below_a_random_one(quickstart):
    tasks = [{"seed": seed} for seed in range(80)]
    env = {**ENV, "tasks": tasks, "reference_return": 20.0}
    for shift, low, high in ((100.0, 0.0, 5.0), (-100.0, -5.0, 0.0)):
        cells = [
            dataclasses.replace(
                cell, config=cell.config.with_overrides({"env": env}, "test"), optimal=(20.0,) * 8,
                returns=cell.returns + shift,
            )
            for cell in quickstart
        ]  # fmt: skip
        drawn = figures(make_study("r", "", "", cells, None))
        bottom, top = drawn["learning"].axes[0].get_ylim()
        assert bottom <= low and top >= high and len(drawn["learning"].axes[0].get_yticks()) < 40
        left, right = drawn["profile"].axes[0].get_xlim()
        assert left < right


def test_histories_of_episodes_that_end_early_are_as_long_as_they_are(cell):
    """Steps by the horizon would be fewer episodes than training saw."""
    by_horizon = summarise_cell(cell())
    assert (by_horizon.history, summarise_cell(cell(history_episodes=70)).history) == (50, 70)
    longer = summarise_cell(cell(history_episodes=45))
    assert longer.normalised_history10 == pytest.approx(longer.normalised[:, :, 35:45].mean())


def test_raw_returns_are_listed_where_environments_differ(quickstart):
    """There is no share of anything to stay above."""
    tasks = [{"seed": seed} for seed in range(80)]
    cells = []
    for horizon, shift in ((20, 0.0), (40, 100.0)):
        changes = {"env": {**ENV, "tasks": tasks}}
        if horizon != ENV["horizon"]:
            changes["evaluation.env"] = {"horizon": horizon}
        config = quickstart[0].config.with_overrides(changes, "test")
        returns = np.full((8, 2, 20), 3.0 + shift)
        cells.append(
            dataclasses.replace(
                quickstart[0], config=config, label=f"h{horizon}", optimal=(1.0,) * 8, returns=returns,
                compressions=None,
            )
        )  # fmt: skip
    text = reach.sentence(make_study("r", "", "", cells, None))
    assert text.startswith("Return, by horizon (training had 20): ")
    assert "3.00 at 20, 103.00 at 40" in text
