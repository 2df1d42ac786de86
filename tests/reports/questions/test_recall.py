"""Return by the age of a fact."""

from __future__ import annotations

import dataclasses
import json

import numpy as np

from cad.reports import write_report
from cad.reports.data import ages_of_facts
from cad.schema import ReportConfig


def cued(cell, seed=0, **changes):
    """Roll-outs that know a fact for four episodes: return 1 up to this age, then 0; 0.5 at first."""
    rng = np.random.default_rng(seed)
    facts = rng.integers(0, 6, (8, 8, 60)).astype(np.int16)
    ages = ages_of_facts(facts)
    optima = rng.integers(2, 9, facts.shape).astype(np.float32)
    shares = np.where(ages == 0, 0.5, np.where(ages <= 4, 1.0, 0.0))
    return cell(shape=(8, 8, 60), returns=shares * optima, facts=facts, optima=optima, seed=seed, **changes)


def test_ages_count_episodes_since_the_fact_was_needed():
    facts = np.array([[[0, 1, 0, 0, 2, 1]]])
    assert ages_of_facts(facts).tolist() == [[[0, 0, 2, 1, 0, 4]]]


def test_the_section_says_how_long_a_fact_is_remembered(cell, origin, tmp_path):
    cells = [cued(cell), cued(cell, seed=1), cued(cell, kind="ad", window=80)]
    page = write_report("r", ReportConfig(), cells, None, origin, tmp_path, figures=False).read_text()
    written = json.loads((tmp_path / "report.json").read_text())
    table = written["tables"]["recall"]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    assert len({(row["label"], row["seed"]) for row in rows}) == 3
    for row in rows:
        if row["age_from"]:
            assert row["normalised_return"] == float(row["age_to"] <= 4)
    own = [row["episodes"] for row in rows if row["label"] == rows[0]["label"] and row["seed"] == 0]
    assert sum(own) == 8 * 8 * 30
    assert "returns 1.00 of the optimum where the fact that an episode needs was needed 1 episode" in page
    assert "episodes show that)" in page
    assert "recall" in {figure["name"] for figure in written["figures"]}


def test_what_a_few_episodes_return_is_not_told(cell, origin, tmp_path):
    """Facts that are met for the first time in the second half of the episodes are rare."""
    own = cued(cell)
    pages = []
    for late in (1, 40):
        facts = own.facts.copy()
        facts.reshape(64, 60)[:late, 45] = 9
        one = dataclasses.replace(own, facts=facts)
        pages.append(
            write_report("r", ReportConfig(), [one], None, origin, tmp_path / str(late), figures=False)
        )
    few, many = (page.read_text() for page in pages)
    assert "for the first time" in many
    assert "for the first time" not in few and "episodes show that)" in few


def test_a_fact_ages_with_every_compression(cell, origin, tmp_path):
    """Episodes have as many steps as a cell's horizon: one compression after every second of them."""
    own = cued(cell)
    horizon = own.config.evaluated_env.steps_per_episode
    steps = np.arange(2, 60, 2) * horizon
    steps = np.broadcast_to(steps, (8, 8, len(steps))).astype(np.int32)
    own = dataclasses.replace(own, compression_steps=steps, chosen=np.zeros(steps.shape, dtype=bool))
    cells = [own, cued(cell, kind="ad", window=80)]
    page = write_report("r", ReportConfig(), cells, None, origin, tmp_path, figures=False).read_text()
    assert "Of a fact that was compressed once since, it returns 1.00, after " in page
    written = json.loads((tmp_path / "report.json").read_text())
    table = written["tables"]["recall_by_compressions"]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    assert {row["label"] for row in rows} == {own.label}  # AD compresses nothing
    # Age 1: no compression since in half of the cases, one in the others; ages 3 and 4: one or two.
    by_count = {row["compressions_from"]: row["normalised_return"] for row in rows}
    assert by_count[0] == by_count[1] == 1 and 0 < by_count[2] < 1 and by_count[3] < 0.1
    ages = ages_of_facts(own.facts)[:, :, 30:]
    assert sum(row["episodes"] for row in rows) == (ages > 0).sum()


def test_tasks_of_one_fact_have_no_such_section(quickstart, origin, tmp_path):
    write_report("r", ReportConfig(), quickstart[:1], None, origin, tmp_path, figures=False)
    written = json.loads((tmp_path / "report.json").read_text())
    assert "recall" not in {figure["name"] for figure in written["figures"]}
    assert "recall" not in written["tables"]
