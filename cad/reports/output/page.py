"""The page: one HTML file that opens from disk, and the content that it shares with Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from cad.reports.data import Provenance, ShownTable, Study, differing_keys, own_settings, text_cell
from cad.reports.output.provenance_section import Fact, costs_table, facts, provenance_notices
from cad.reports.output.summary import depth_and_latents, headline, method, notices, qualification
from cad.reports.questions import Answer


@dataclass(frozen=True)
class Content:
    """What the page and the Markdown show."""

    study: Study
    answer: str  # to the question of the grid; empty without one
    headline: str
    qualification: str
    notices: list[str]
    answers: Sequence[Answer]
    method: str
    differing: ShownTable | None  # settings that differ between models
    shared: dict[str, Any]  # settings that all models share
    provenance: Provenance
    costs: ShownTable | None
    facts: list[Fact]


def report_content(
    study: Study, answers: Sequence[Answer], fingerprint: str, provenance: Provenance
) -> Content:
    """Everything that people read in the report."""
    keys = differing_keys([model.config for model in study.models])
    settings = [own_settings(model.config) for model in study.models]
    alike = settings[0] if settings else {}
    return Content(
        study=study,
        answer=depth_and_latents(study),
        headline=headline(study),
        qualification=qualification(study),
        notices=[*notices(study), *provenance_notices(provenance)],
        answers=answers,
        method=method(study),
        differing=settings_table(study, keys, settings) if keys else None,
        shared={key: value for key, value in alike.items() if key not in [*keys, "seed"]},
        provenance=provenance,
        costs=costs_table(provenance),
        facts=facts(provenance, sorted({cell.result.config.seed for cell in study.cells}), fingerprint),
    )


def settings_table(study: Study, keys: Sequence[str], settings: Sequence[dict[str, Any]]) -> ShownTable:
    """The settings of each model under ``keys``, and which of them was chosen for its state's size."""
    chosen = ("equal state",) if any(model.equal_state for model in study.models) else ()
    rows = [
        (
            text_cell(model.label),
            *(text_cell(setting_text(flat[key]) if key in flat else "-") for key in keys),
            *(text_cell(model.equal_state or "-") for _ in chosen),
        )
        for model, flat in zip(study.models, settings, strict=True)
    ]
    return ShownTable("config-table", "Settings that differ between models", ("model", *keys, *chosen), rows)


def setting_text(value: object) -> str:
    """A setting as a config file has it; ``default`` where none was chosen."""
    if value is None:
        return "default"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def page_html(content: Content) -> str:
    """The report as HTML without any other file."""
    environment = Environment(
        loader=PackageLoader("cad.reports.output"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    # Only our own drawings pass unescaped; matplotlib escapes the names inside them.
    environment.filters["setting"] = setting_text
    environment.filters["drawing"] = lambda drawing: Markup(drawing.screen.svg)
    # Long keys such as ``train.batch_size`` may break after a dot or an underscore.
    environment.filters["breakable"] = lambda text: Markup(
        re.sub(r"([._])(?=[a-z])", r"\1<wbr>", str(escape(text)))
    )
    headed = bool(content.answer)
    return environment.get_template("report.html.j2").render(vars(content) | {"headed": headed})
