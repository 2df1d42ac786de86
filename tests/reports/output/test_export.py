"""Tables for papers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cad.errors import CadError
from cad.reports import (
    CellResult,
    Study,
    export_table,
    make_study,
)

Make = Callable[..., CellResult]


def study_of(cells: list[CellResult], **how: Any) -> Study:
    return make_study("s", "", "", cells, None, **how)


def test_table_for_a_paper(cell: Make) -> None:
    odd = "50% of {a_b} & c #1 | $x^2$"
    study = study_of([cell(0.6, kind="ad", window=80), cell(0.8, label=odd), cell(seed=1, label=odd)])
    latex = export_table(study, "latex")
    assert r"50\% of \{a\_b\} \& c \#1 \textbar{} \$x\textasciicircum{}2\$" in latex
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len(body) == 3
    assert len({line.replace(r"\&", "").count("&") for line in body}) == 1
    assert r"\begin{tabular}{lrrrrrrrrr}" in latex
    markdown = export_table(study, "markdown")
    assert markdown.splitlines()[0].startswith(
        "| model | window | depth | latents | return / optimum (95% interval)"
    )
    assert "minus AD, window 80" in markdown and r"\| \$x^2\$" in markdown and "2 of 2" in markdown
    with pytest.raises(CadError, match="no result yet"):
        export_table(study_of([cell(status="missing", returns=None)]), "latex")


def test_what_controls_a_terminal_is_shown_in_a_table(cell: Make) -> None:
    latex = export_table(study_of([cell(label="a\x1b[31m:x:")]), "latex")
    assert r"a\textbackslash{}x1b[31m:x:" in latex and "\x1b" not in latex
