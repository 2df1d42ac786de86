"""Several experiments in one report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cad.reports import (
    CellResult,
    Provenance,
    Study,
    make_study,
    write_report,
)
from cad.reports.questions import (
    shared_models,
)
from cad.schema import ReportConfig

Make = Callable[..., CellResult]


def study_of(cells: list[CellResult], **how: Any) -> Study:
    return make_study("s", "", "", cells, None, **how)


def test_experiments_side_by_side(cell: Make, tmp_path: Path, origin: Provenance) -> None:
    cells = [
        dataclasses.replace(one, label=f"{name}: {one.label}", arm=f"{name}: {one.arm}", experiment=name)
        for name, level in (("old", 0.7), ("new", 0.9))
        for one in (cell(0.6, kind="ad", window=80), cell(level))
    ]
    write_report("both", ReportConfig(), cells, None, origin, tmp_path, unequal="refuse", figures=False)
    written = json.loads((tmp_path / "report.json").read_text())
    table = written["tables"]["side_by_side"]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    assert [(row["model"], row["experiment"]) for row in rows] == [
        ("AD, window 80", "old"), ("AD, window 80", "new"),
        ("CompressedAD, depth 3, 16 latents", "old"), ("CompressedAD, depth 3, 16 latents", "new"),
    ]  # fmt: skip
    assert rows[1]["difference"] == 0 and rows[0]["difference"] is None
    assert rows[3]["difference"] == pytest.approx(rows[3]["mean"] - rows[2]["mean"])
    assert "side_by_side" in {figure["name"] for figure in written["figures"]}
    assert written["sentences"]["side-by-side"].startswith(
        "old and new share 2 models by name; furthest apart"
    )
    assert shared_models.sentence(study_of([cell()])) == ""
