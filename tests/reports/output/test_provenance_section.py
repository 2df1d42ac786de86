"""Stages, costs and code in the report."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cad.reports import CellResult, Provenance, StageRecord, write_report
from cad.reports.output.provenance_section import costs_table, facts, provenance_notices, stage_tables
from cad.schema import ReportConfig


def test_costs_are_sums_over_done_stages(origin: Provenance) -> None:
    table = costs_table(origin)
    assert table is not None
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert rows == {
        "histories": ["1", "0", "0", "0.050", "0.100", "0", "-", "75%"],
        "train": ["1", "1", "0", "0.100", "0.100", "2", "1.50", "-"],
        "evaluate": ["0", "0", "1", "-", "-", "-", "-", "-"],
        "all": ["2", "1", "1", "0.150", "0.200", "2", "1.50", "75%"],
    }
    # The most memory and the longest time of a kind's done stages, with some to spare.
    assert table.caption.endswith(
        "What a profile may ask for, with some to spare: histories minutes: 5; train memory_gb: 2, minutes: 9"
    )
    unknown = dataclasses.replace(origin, stages=(StageRecord("a", "train", "done", 5.0), *origin.stages))
    table = costs_table(unknown)
    assert table is not None
    assert [cell.text for cell in table.rows[0]] == ["train", "2", "1", "0", "0.101", "-", "-", "1.50", "-"]
    assert costs_table(dataclasses.replace(origin, stages=())) is None


def test_what_one_of_several_in_a_task_took_is_no_advice(origin: Provenance) -> None:
    alone = costs_table(origin)
    packed = [dataclasses.replace(stage, shared=stage.kind == "train") for stage in origin.stages]
    together = costs_table(dataclasses.replace(origin, stages=tuple(packed)))
    assert alone is not None and together is not None
    assert "train memory_gb" in alone.caption and "histories minutes" in alone.caption
    assert "train" not in together.caption and "histories minutes" in together.caption


def test_notices_of_unfinished_and_changed_code(origin: Provenance) -> None:
    notices = provenance_notices(origin)
    assert notices == [
        "Unfinished: 2 of 4 stages are done, 1 failed, 1 missing.",
        "1 of 4 stages were run by code with uncommitted changes: the commit alone does not reproduce them.",
    ]
    mixed = [
        dataclasses.replace(stage, state="done", dirty=False, code_version=f"0.1.{i % 2}")
        for i, stage in enumerate(origin.stages)
    ]
    assert provenance_notices(dataclasses.replace(origin, stages=mixed)) == [
        "The stages were run by 2 versions of the code: 0.1.0, 0.1.1."
    ]
    assert provenance_notices(dataclasses.replace(origin, stages=())) == []


def test_provenance_is_in_every_format(
    tmp_path: Path, cell: Callable[..., CellResult], origin: Provenance
) -> None:
    stage = dataclasses.replace(
        origin.stages[0], image="e" * 64, packages={"torch": "9.9"}, hardware="<b>chip</b>, 4 cores"
    )
    warned = dataclasses.replace(origin, stages=(stage, *origin.stages[1:]))
    cells = [cell(metrics=None)]
    page = write_report("x", ReportConfig(), cells, None, warned, tmp_path, figures=False).read_text()
    markdown = (tmp_path / "report.md").read_text()
    for text in ("e" * 64, "torch 9.9", "7_0", "0.1.0+0123abc, with uncommitted changes", "0.150"):
        assert text in page
        assert text.replace("_", "\\_") in markdown
    assert (
        "&lt;b&gt;chip&lt;/b&gt;, 4 cores" in page
        and "<b>" not in page
        and "<b>" not in markdown.replace("\\<", "")
    )
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["tables"]["stages"]["rows"] == [list(row) for row in stage_tables(warned)["stages"].rows]
    with (tmp_path / "csv" / "stages.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["stage"], row["state"], row["core_hours"]) for row in rows[:2]] == [
        ("histories-0a", "done", "0.1"), ("train-0b", "done", "0.1"),
    ]  # fmt: skip
    assert rows[0]["code_differs_from_commit"] == "true" and rows[2]["code_differs_from_commit"] == ""


def test_the_fingerprint_ignores_times(
    tmp_path: Path, cell: Callable[..., CellResult], origin: Provenance
) -> None:
    prints = set()
    for seconds in (1.0, 2.0):
        stages = [dataclasses.replace(stage, wall_seconds=seconds) for stage in origin.stages]
        warned = dataclasses.replace(origin, stages=stages)
        cells = [cell(metrics=None, returns=None, status="missing")]
        write_report("x", ReportConfig(), cells, None, warned, tmp_path, figures=False)
        prints.add(json.loads((tmp_path / "report.json").read_text())["fingerprint"])
    assert len(prints) == 1


@pytest.mark.parametrize("recorded", [True, False])
def test_unknown_facts_are_named_as_such(origin: Provenance, recorded: bool) -> None:
    known = origin if recorded else dataclasses.replace(origin, stages=(StageRecord("a", "train", "done"),))
    actual = {fact.term: fact.text for fact in facts(known, [0, 1], "f00")}
    assert actual["code of the stages"] == (
        "0.1.0+0123abc, with uncommitted changes; 0.1.0+0123abc" if recorded else "not recorded"
    )
    assert actual["hardware of the stages"] == ("a, 2 cores" if recorded else "not recorded")
    assert actual["training seeds"] == "0, 1"
