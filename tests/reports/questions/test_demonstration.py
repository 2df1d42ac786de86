"""The section on models that were shown the facts first, and what other sections make of such models."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from cad.errors import CadError
from cad.reports import write_report
from cad.reports.data import (
    cell_record,
    demonstration_tables,
    demonstrations,
    first_reward_tables,
    grid_tables,
    make_study,
    reaches,
    recall_by_age,
)
from cad.reports.output.export import export_table
from cad.reports.output.summary import headline, method
from cad.reports.plotting import drawing_style, keeping_figures
from cad.reports.questions import data_tables
from cad.reports.questions import demonstration as question
from cad.schema import ReportConfig

N, SHOWN = 50, 20
CUED = {
    "env": {"name": "cued_darkroom", "n_cues": 4, "n_tasks": 40, "n_heldout": 8},
    "source": {"kind": "learner"},
}
IDS = tuple(range(100, 108))


def study(cells):
    return make_study("r", "", "", cells, None)


def facts(unseen=0.0):
    """(tasks, roll-outs, episodes) cues 0 to 2; 3 is needed after the demonstration alone, now and then."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 3, (8, 8, N))
    drawn[:, :, :3] = [0, 1, 2]
    late = rng.random((8, 8, N)) < unseen
    late[:, :, :SHOWN] = False
    return np.where(late, 3, drawn).astype(np.int16)


def spread(level, width=0.02):
    """Around a level, differently in each task."""
    return level + np.linspace(-width, width, 8)[:, None, None]


def made(cell, by_episode, shown=0, unseen=0.0, settings=None, **changes):
    """A cell in tasks of four cues that returns these shares of an optimum of 10 by episode."""
    model = cell(**changes)
    more = {"evaluation.demonstrated_episodes": shown} if shown else {}
    config = model.config.with_overrides({**CUED, **more, **(settings or {})}, "test")
    shares = np.broadcast_to(by_episode, (8, 8, N))
    optima = np.full((8, 8, N), 10.0)
    return cell(
        config=config, returns=10 * shares, optimal=(10.0,) * 8, optima=optima, facts=facts(unseen),
        task_ids=IDS, label=f"{model.label}, {shown} demonstrated" if shown else model.label, **changes,
    )  # fmt: skip


def plain(cell, level=0.3, **changes):
    return made(cell, spread(np.full(N, level)), **changes)


def shown(cell, after, last, n=SHOWN, **changes):
    """The optimum while it watches, ``after`` for ten episodes, then ``last``."""
    shares = np.full(N, 1.0)
    shares[n:] = last
    shares[n : n + 10] = after
    values = spread(shares)[::-1].copy()  # other tasks are hard
    values[..., :n] = 1
    return made(cell, values, n, **changes)


def row(made_study):
    table = demonstration_tables(made_study)["demonstration"]
    (values,) = table.rows
    return dict(zip(table.columns, values, strict=True))


def test_it_is_paired_with_the_same_model_without(cell):
    both = study([
        plain(cell, 0.3), plain(cell, 0.4, seed=1), shown(cell, 0.5, 0.4), shown(cell, 0.6, 0.5, seed=1),
        shown(cell, 0.9, 0.9, depth=1),  # without one beside it
    ])  # fmt: skip
    values = row(both)
    assert (values["demonstrated_episodes"], values["episodes_after"], values["n_seeds"]) == (20, 10, 2)
    assert values["without"] == "CompressedAD, depth 3, 16 latents"
    expected = {
        "after": 0.55, "last": 0.45, "without_last": 0.35, "without_same_episodes": 0.35,
        "difference_after": 0.2, "difference_last": 0.1, "share_shown_before": 1, "after_where_shown": 0.55,
    }  # fmt: skip
    for key, value in expected.items():
        assert values[key] == pytest.approx(value), key
    assert values["difference_after_low_95"] <= 0.2 <= values["difference_after_high_95"]
    curve = demonstration_tables(both)["demonstration_by_episode"].rows
    assert [line[2] for line in curve] == [1] * SHOWN + [0] * (N - SHOWN)
    assert curve[SHOWN][3] == pytest.approx(0.55)
    text = question.sentence(both)
    assert (
        "Shown what is optimal in the first 20 episodes, CompressedAD, depth 3, 16 latents returns 0.55 of "
        "the optimum over episodes 21 to 30 and 0.45 over the last 10; without, 0.35 over the last 10 "
        "(paired, +0.200 ["
    ) in text


@pytest.mark.parametrize(
    ("without", "after", "last", "missing", "words"),
    [
        (0.3, 0.41, 0.35, "memory", "memory is missing (facts are not kept, or not read)"),
        (0.3, 0.9, 0.85, "exploration", "exploration is missing (facts are not found)"),
        (0.3, 0.9, 0.35, "lasting memory", "so that lasting memory is missing"),
        (0.3, 0.41, 0.9, "unclear", "do not tell whether memory or exploration"),  # it got better by itself
        (0.95, 0.96, 0.95, "", ""),  # nothing is missing
    ],
)
def test_what_is_missing(without, after, last, missing, words, cell):
    both = study([plain(cell, without), shown(cell, after, last)])
    assert row(both)["missing"] == missing
    text = question.sentence(both)
    assert words in text
    said = [part for part in ("memory", "exploration") if part in text]
    assert bool(said) == bool(missing)


def test_tasks_may_lack_much_or_little(cell):
    """It makes up for a third of what it lacks in each task: that half of them lack little hides nothing."""
    without = np.where(np.arange(8)[:, None, None] < 4, 0.9, 0.0) * np.ones(N)
    third = without + (1 - without) / 3
    third[..., :SHOWN] = 1
    values = row(study([made(cell, without), made(cell, third, SHOWN)]))
    # Over all tasks the gain may be half of the gap.
    assert values["difference_after_high_95"] > (1 - values["without_last"]) / 2
    assert values["missing"] == "memory"


def test_wide_intervals_do_not_tell(cell):
    """The means are those of a model that lacks memory; half of the tasks are like one that does not."""
    shares = np.where(np.arange(8)[:, None, None] < 4, 0.9, 0.0) * np.ones(N)
    shares[..., :SHOWN] = 1
    both = study([plain(cell, 0.4), made(cell, shares, SHOWN)])
    assert row(both)["after"] == pytest.approx(0.45)
    assert row(both)["missing"] == "unclear"


def test_facts_that_were_not_shown_are_told_apart(cell):
    """A model that remembers all that it was shown, and nothing else: no exploration, perfect memory."""
    needed = facts(0.6)
    shares = np.where(needed == 3, 0.2, 0.95)
    shares[..., :SHOWN] = 1
    both = study([plain(cell, 0.2, unseen=0.6), made(cell, shares, SHOWN, unseen=0.6)])
    values = row(both)
    share = (needed[..., SHOWN : SHOWN + 10] != 3).mean()
    assert values["share_shown_before"] == pytest.approx(share)
    assert 0.3 < share < 0.5
    assert values["after_where_shown"] == pytest.approx(0.95)
    # It makes up for less than half, but not for less than half of what it was shown.
    assert values["difference_after"] < 0.4 and values["missing"] == "unclear"
    assert (
        f"Of episodes 21 to 30, {share:.0%} need a fact that was shown, and return 0.95."
        in question.sentence(both)
    )


def test_where_a_task_is_one_fact_it_was_shown(cell):
    config = cell().config.with_overrides({"evaluation.demonstrated_episodes": SHOWN}, "test")
    optimal = np.array(cell().optimal)[:, None, None]
    level = spread(np.full(N, 0.3)) * np.ones((8, 8, N))
    watched = level.copy()
    watched[..., :SHOWN] = 1
    shown_too = cell(returns=watched * optimal, config=config, label="shown")
    both = study([cell(returns=level * optimal), shown_too])
    assert row(both)["share_shown_before"] == 1 and row(both)["missing"] == "memory"
    assert "need a fact" not in question.sentence(both)
    assert "demonstration_recall" not in demonstration_tables(both)


def test_curves_are_on_the_seeds_that_all_have(cell):
    """As the table's numbers are."""
    cells = [made(cell, spread(0.2)), made(cell, spread(0.6), seed=1), made(cell, spread(0.8), SHOWN, seed=1)]
    tables = demonstration_tables(study(cells))
    rows = tables["demonstration_by_episode"].rows
    assert {round(row[4], 6) for row in rows} == {0.6}
    with keeping_figures() as kept, drawing_style():
        question.SECTION.figures[0](study(cells))
    plain = kept["demonstration"].axes[0].lines[0]
    assert plain.get_ydata() == pytest.approx(0.6)


def test_nothing_else_counts_demonstrated_episodes(cell):
    """It would be the best model by far, and found everything at once."""
    cells = [plain(cell, 0.3), shown(cell, 0.8, 0.8), shown(cell, 0.9, 0.9, n=45, depth=1)]
    all_of_them, alone = study(cells), study(cells[:1])
    assert [model.label for model in all_of_them.scored] == [cells[0].label]
    assert all_of_them.best(ad=False).score == pytest.approx(0.3)
    first, later, latest = all_of_them.cells
    assert (first.return_first_episode, later.return_first_episode) == (pytest.approx(3), None)
    assert later.normalised_last10 == pytest.approx(0.8)
    assert latest.normalised_last10 == pytest.approx(0.9)  # of five episodes, and no demonstrated one
    assert latest.normalised_iqm == pytest.approx(0.9) and latest.return_last10 == pytest.approx(9)
    assert all_of_them.models[2].score == pytest.approx(0.9)
    assert all_of_them.models[2].returns.scores.mean() == pytest.approx(0.9)
    assert all_of_them.models[2].returns.history_scores is None
    assert {task["never_found"] for task in cell_record(later)["per_task"]} == {None}
    labels = {line[0] for line in first_reward_tables(all_of_them)["never_found"].rows}
    assert labels == {cells[0].label}
    never = [line[8] for line in grid_tables(all_of_them)["models"].rows]
    assert never == [0.0, None, None]
    # All tables but those that list cells are as if it were not there.
    mine = {"cells", "cost", "models", "per_task", "recall", "training", "demonstration",
            "demonstration_by_episode", "demonstration_recall"}  # fmt: skip
    tables, before = data_tables(all_of_them), data_tables(alone)
    assert tables.keys() - mine == before.keys() - mine
    for name in before.keys() - mine:
        assert tables[name].rows == before[name].rows, name


def test_a_reader_is_told_which_episodes_count(cell):
    alone, both = study([plain(cell)]), study([plain(cell), shown(cell, 0.9, 0.5)])
    assert "demonstrated" not in method(alone) + export_table(alone, "markdown")
    assert "or all where there are fewer; demonstrated ones do not count." in method(both)
    assert "training seeds. Episodes that were demonstrated do not" in export_table(both, "markdown")


def test_ages_count_from_demonstrated_episodes_but_their_returns_do_not(cell):
    (long,) = study([shown(cell, 0.5, 0.5, n=40)]).cells
    recalls = recall_by_age(long)
    assert sum(item.episodes for item in recalls) == 8 * 8 * 10
    assert all(item.mean == pytest.approx(0.5, abs=0.02) for item in recalls)
    assert min(item.low for item in recalls) == 1  # all had been shown: none is met for the first time
    (short,) = study([shown(cell, 0.5, 0.5, n=10)]).cells
    assert sum(item.episodes for item in recall_by_age(short)) == 8 * 8 * 25  # the second half, as ever
    both = study([plain(cell, 0.3), shown(cell, 0.5, 0.5, n=40)])
    rows = demonstration_tables(both)["demonstration_recall"].rows
    assert {line[2] for line in rows} == {0, 40}
    for count in (0, 40):  # over the same episodes
        assert sum(line[6] for line in rows if line[2] == count) <= 8 * 8 * 10


def test_roll_outs_that_are_cut_to_the_demonstration_are_no_result(cell):
    whole = plain(cell, 0.3, depth=1)
    first = {name: getattr(whole, name)[..., :15] for name in ("returns", "optima", "facts")}
    short = dataclasses.replace(whole, **first)
    cut = make_study("r", "", "", [short, plain(cell), shown(cell, 0.5, 0.5)], None, unequal="cut")
    assert cut.cells[2].status == "failed: of its 15 episodes the first 20 are demonstrated: none is its own"
    assert cut.cells[1].done and demonstrations(cut) == []


def test_a_knocked_out_one_and_other_environments(cell):
    """With a replaced memory it is paired with nothing; in another environment with itself there."""
    replaced = {"evaluation.knock_out": "noise"}
    far = {"evaluation.env": {"horizon": 30}}
    cells = [
        plain(cell, 0.3, settings=replaced), shown(cell, 0.5, 0.5, settings=replaced),
        plain(cell, 0.3, settings=far), shown(cell, 0.5, 0.5, settings=far),
    ]  # fmt: skip
    (item,) = demonstrations(study(cells))
    assert item.plain.config.evaluation.env == {"horizon": 30}
    further = shown(cell, 0.5, 0.5, settings={"evaluation.env": {"horizon": 40}})
    assert reaches(study([*cells[2:], further])) == []


def test_it_is_in_the_report(cell, origin, tmp_path):
    cells = [plain(cell, 0.3), shown(cell, 0.41, 0.35), shown(cell, 0.45, 0.35, n=30)]
    write_report("r", ReportConfig(), cells, None, origin, tmp_path, figures=False)
    written = json.loads((tmp_path / "report.json").read_text())
    assert {"demonstration", "demonstration_by_episode", "demonstration_recall"} <= written["tables"].keys()
    assert {figure["name"] for figure in written["figures"]} >= {"demonstration", "demonstration-recall"}
    assert "memory is missing" in written["sentences"]["demonstration"]
    page = (tmp_path / "report.html").read_text()
    assert "Does it fail to find the facts, or to remember them?" in page
    assert "episodes that were demonstrated do not count" in page
    with keeping_figures() as kept, drawing_style():
        question.SECTION.figures[0](study(cells))
    (ax,) = kept["demonstration"].axes
    assert [len(line.get_xdata()) for line in ax.lines] == [N, 21, 2, 30, 31, 2, 20]
    (legend,) = kept["demonstration"].legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "no demonstration", "the first 20 episodes demonstrated", "the first 30 episodes demonstrated",
    ]  # fmt: skip


def test_in_a_grid_the_model_is_named_without_that_setting(cell):
    """Not "Shown what is optimal ..., X, nothing demonstrated returns"."""
    bare = dataclasses.replace(plain(cell, 0.3), label="X, nothing demonstrated, 16 latents")
    both = study([bare, shown(cell, 0.41, 0.35)])
    assert "in the first 20 episodes, X, 16 latents returns" in question.sentence(both)
    assert row(both)["without"] == bare.label
    with keeping_figures() as kept, drawing_style():
        drawings = [draw(both) for draw in question.SECTION.figures]
    assert all(drawings)
    assert [figure.axes[0].get_title("left") for figure in kept.values()] == ["X, 16 latents"] * 2


def test_alone_it_is_no_headline_and_breaks_nothing(cell, origin, tmp_path):
    cells = [shown(cell, 0.5, 0.5)]
    assert headline(study(cells)).startswith("No model is evaluated as it was trained")
    with pytest.raises(CadError, match=r"^r has no table to export\. No model is evaluated as"):
        export_table(study(cells), "markdown")
    write_report("r", ReportConfig(), cells, None, origin, tmp_path, figures=False)
    written = json.loads((tmp_path / "report.json").read_text())
    assert "demonstration" not in written["tables"]


def test_without_one_there_is_nothing(cell):
    assert demonstration_tables(study([plain(cell)])) == {}
    assert question.sentence(study([plain(cell)])) == ""
    assert question.SECTION.figures[1](study([plain(cell)])) is None
