"""The results as one table for a paper: LaTeX (booktabs) or Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from cad.errors import CadError, printable
from cad.reports.data import ModelResult, Study, differences_from, last_words, mean_cost
from cad.reports.output.markdown import escape_markdown
from cad.reports.output.summary import headline, notices

TableFormat = Literal["latex", "markdown"]

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_",
    "%": r"\%", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}",
}  # fmt: skip


def latex_text(text: str) -> str:
    """One line of text that LaTeX prints as it is."""
    return "".join(_LATEX.get(character, character) for character in printable(" ".join(text.split())))


def _number(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None or not math.isfinite(value) else format(value, form)


def _with_interval(value: float | None, low: float, high: float, sign: str = "") -> str:
    if value is None:
        return "-"
    ends = f" ({low:{sign}.3f} to {high:{sign}.3f})" if math.isfinite(low) else ""
    return f"{value:{sign}.3f}{ends}"


def _rows(study: Study) -> tuple[list[str], list[list[str]]]:
    reference = study.references[-1] if study.references else None
    against = {d.model: d for d in differences_from(study.scored, reference)} if reference else {}
    headers = ["model", "window", "depth", "latents", f"{study.measure.name} (95% interval)", "IQM"]
    headers += [f"minus {reference.label}"] if reference else []
    headers += ["state, KiB", "core-hours", "seeds"]

    def one(model: ModelResult) -> list[str]:
        facts, state = model.facts, mean_cost(model, lambda result: result.state_bytes)
        cells = [model.label, str(facts.window), _number(facts.depth, "d"), _number(facts.n_latent, "d")]
        if model.done:
            cells += [_with_interval(model.score, *model.returns.score_interval), _number(model.returns.iqm)]
        else:
            cells += ["-", "-"]
        if reference:
            d = against.get(model)
            cells.append(_with_interval(d.mean, d.low, d.high, "+") if d else "-")
        minutes = mean_cost(model, lambda result: result.core_minutes)
        cells += [
            _number(None if state is None else state / 1024, ",.0f"),
            _number(None if minutes is None else minutes / 60, ",.3f"),
            f"{len(model.done)} of {len(model.cells)}",
        ]
        return cells

    return headers, [one(model) for model in study.models]


def _notes(study: Study) -> list[str]:
    """Notes under the table: what is averaged, and what is missing."""
    return [
        f"Return {study.measure.divided}, mean over {last_words(study)}, roll-outs, "
        f"{study.task_kind} tasks and training seeds."
        + " Episodes that were demonstrated do not count."
        * study.demonstrated,
        *notices(study),
    ]


def export_table(study: Study, form: TableFormat) -> str:
    """All models of a comparable study as text; raises :class:`CadError` where there is no result yet."""
    if not study.scored and any(model.done for model in study.models):
        raise CadError(f"{study.name} has no table to export. {headline(study)}")
    if not study.scored:
        raise CadError(f"{study.name} has no result yet: there is no table to export")
    headers, rows = _rows(study)
    return {"latex": _latex, "markdown": _markdown}[form](headers, rows, _notes(study))


def _latex(headers: list[str], rows: list[list[str]], notes: list[str]) -> str:
    def line(cells: list[str], escape: Callable[[str], str] = latex_text) -> str:
        return "  " + " & ".join(escape(cell) for cell in cells) + r" \\"

    body = [
        r"% needs \usepackage{booktabs}",
        *(f"% {latex_text(note)}" for note in notes),
        rf"\begin{{tabular}}{{l{'r' * (len(headers) - 1)}}}",
        r"  \toprule",
        line(headers),
        r"  \midrule",
        *(line(row) for row in rows),
        r"  \bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(body) + "\n"


def _markdown(headers: list[str], rows: list[list[str]], notes: list[str]) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(escape_markdown(cell) for cell in cells) + " |"

    rule = "|" + "|".join([" --- ", *[" ---: "] * (len(headers) - 1)]) + "|"
    return "\n".join([line(headers), rule, *map(line, rows), "", *map(escape_markdown, notes)]) + "\n"
