"""`cad report` with a reference and with several experiments, and `cad export-table`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from cad.experiments.plan.experiment import open_experiment
from cad.experiments.reporting.report import experiment_study


@pytest.fixture(scope="module")
def other(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment with two of the small one's cells, and one that was never run."""
    settings = yaml.safe_load(small.read_text(encoding="utf-8"))
    settings["name"] = "other"
    settings["arms"][1]["grid"] = {"model.max_compression_depth": [2, 1]}
    file = tmp_path_factory.mktemp("other") / "other.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return file


def test_two_experiments_side_by_side(cad, small, other, copy):
    alone = cad("report", small, other, "--root", copy)
    assert alone.returncode == 2 and "--compare" in alone.stderr
    watched = cad("report", small, "--root", copy, "--compare", "--watch")
    assert watched.returncode == 2 and "leave out --compare" in watched.stderr
    one = cad("report", small, "--root", copy, "--compare")
    assert one.returncode == 2 and "two or more" in one.stderr
    both = cad("report", small, other, "--compare", "--root", copy, "--no-figures")
    assert both.returncode == 0, both.stderr
    report = json.loads((copy / "small-vs-other" / "report" / "report.json").read_text())
    table = report["tables"]["side_by_side"]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    assert [(row["model"], row["experiment"]) for row in rows] == [
        ("AD", "small"), ("AD", "other"),
        ("CompressedAD, depth 2", "small"), ("CompressedAD, depth 2", "other"),
    ]  # fmt: skip
    assert [row["difference"] for row in rows] == [None, 0, None, 0]
    assert any("other: CompressedAD, depth 1, seed 0: missing" in line for line in report["notices"])
    commands = [line for line in report["provenance"]["commands"] if line.startswith("cad ")]
    assert commands[:2] == [f"cad run {small}", f"cad run {other}"] and "--compare" in commands[2]


def test_a_table_and_a_reference(cad, small, finished, tmp_path):
    file = tmp_path / "table.tex"
    written = cad(
        "export-table", small, "--format", "latex", "--out", file, "--reference", "CompressedAD, depth 0",
        "--root", finished,
    )  # fmt: skip
    assert written.returncode == 0, written.stderr
    assert "minus CompressedAD, depth 0" in file.read_text()
    wrong = cad("report", small, "--reference", "CompressedAD", "--root", finished)
    assert wrong.returncode == 2
    assert "choose one of: AD; CompressedAD, depth 0; CompressedAD, depth 2" in wrong.stderr


def test_an_experiment_may_name_its_reference(small, finished):
    opened = open_experiment(small, ["report.reference=CompressedAD, depth 0"], finished)
    assert [g.label for g in experiment_study(opened).references] == ["AD", "CompressedAD, depth 0"]
    chosen = experiment_study(opened, reference="CompressedAD, depth 2")
    assert [g.label for g in chosen.references] == ["AD", "CompressedAD, depth 2"]
