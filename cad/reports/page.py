"""Writing the report: HTML that opens from disk, Markdown, JSON, CSV, PNG."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cad.config.schema import ReportConfig
from cad.reports import wording
from cad.reports.aggregate import Study, Unequal, differing_keys, flatten, make_study
from cad.reports.results import CellResult, Provenance, SourceCurve
from cad.reports.sections import FIGURES, Section, make_sections
from cad.reports.statistics import RESAMPLES
from cad.reports.tables import (
    ShownTable,
    Table,
    cell_record,
    config_table,
    data_tables,
    fingerprint,
)
from cad.storage import atomic_path, write_text

SCHEMA_VERSION = 2


def _method() -> str:
    """How the numbers were made, in words."""
    return (
        "A return is the sum of rewards of one episode; it is divided by the optimum of its task. Means are "
        "taken over roll-outs first, then tasks, then training seeds. “Last episodes” means the last ten of "
        f"a roll-out, or all where there are fewer. Intervals are percentiles of {RESAMPLES:,} bootstrap "
        "joint resamples of the held-out tasks and, where there are more than three, of the training seeds, "
        "all models on the same draws; since such percentiles of few tasks are too narrow, they are moved "
        "away from the estimate by what the t distribution asks for. The interquartile mean (IQM) leaves out "
        "the lowest and the highest quarter of all pairs of seed and task. "
        "Cells that are missing or failed enter no mean; one return that is NaN or infinite makes its cell "
        "a failed one."
    )


def report_json(study: Study, tables: dict[str, Table], provenance: Provenance) -> dict[str, Any]:
    """Every number and sentence of the report, as ``report.json`` holds them."""
    shared = differing_keys([group.config for group in study.groups])
    return {
        "schema_version": SCHEMA_VERSION,
        "name": study.name,
        "title": study.title,
        "question": study.question,
        "headline": wording.headline(study),
        "qualification": wording.qualification(study),
        "notices": wording.notices(study),
        "sentences": wording.sentences(study),
        "fingerprint": fingerprint(study, tables),
        "cells": [cell_record(cell) for cell in study.cells],
        "configs": {
            "differing_keys": shared,
            "groups": [
                {"label": group.label, "config": group.config.model_dump(mode="json")}
                for group in study.groups
            ],
        },
        "tables": {name: table.as_json() for name, table in tables.items()},
        "provenance": asdict(provenance)
        | {
            "packages": dict(provenance.packages),
            "commands": list(provenance.commands),
            "inputs": dict(provenance.inputs),
        },
    }


def _lines_of_json(numbers: dict[str, Any]) -> str:
    """A line a key: with an indent Python's slow encoder would take half of a large report's time."""
    lines = (f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in numbers.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cad.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    # Only our own drawings pass unescaped; matplotlib escapes the names inside them.
    environment.filters["drawing"] = lambda drawing: Markup(drawing.svg)
    return environment


def _context(
    study: Study, sections: Sequence[Section], print_: str, provenance: Provenance
) -> dict[str, Any]:
    configs = [group.config for group in study.groups]
    keys = differing_keys(configs)
    flats = [flatten(config) for config in configs]
    shared = {key: value for key, value in flats[0].items() if key not in [*keys, "seed"]} if flats else {}
    return {
        "study": study,
        "headline": wording.headline(study),
        "qualification": wording.qualification(study),
        "notices": wording.notices(study),
        "sections": sections,
        "method": _method(),
        "differing": config_table(study, keys, flats) if keys else None,
        "shared": shared,
        "provenance": provenance,
        "fingerprint": print_,
        "seeds": sorted({cell.result.config.seed for cell in study.cells}),
    }


def _escape_markdown(text: str) -> str:
    """One line of text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|#$~&])", r"\\\1", " ".join(text.split()))


def _markdown_table(table: ShownTable) -> str:
    lines = [
        "| " + " | ".join(_escape_markdown(header) for header in table.headers) + " |",
        "|" + "|".join(" --- " if i == 0 else " ---: " for i in range(len(table.headers))) + "|",
    ]
    lines += ["| " + " | ".join(_escape_markdown(cell.text) for cell in row) + " |" for row in table.rows]
    return "\n".join(lines)


def _markdown(context: dict[str, Any]) -> str:
    study: Study = context["study"]
    provenance: Provenance = context["provenance"]
    e = _escape_markdown
    blocks = [f"# {e(study.title)}"]
    blocks += [e(study.question)] if study.question else []
    blocks.append(f"**{e(context['headline'])}**")
    blocks += [e(context["qualification"])] if context["qualification"] else []
    if context["notices"]:
        blocks.append("\n".join(["Missing, failed, or to be known first:", ""] + [
            f"- {e(line)}" for line in context["notices"]
        ]))  # fmt: skip
    for section in context["sections"]:
        blocks.append(f"## {e(section.heading)}")
        blocks += [e(section.sentence)] if section.sentence else []
        for drawing in section.drawings:
            blocks.append(f"![{e(drawing.alt)}](figures/{drawing.name}.png)")
            blocks.append(f"*{e(drawing.title)}.* {e(drawing.caption)}")
        blocks += [_markdown_table(table) for table in section.tables]
    blocks += ["## How the numbers were made", e(context["method"])]
    blocks += [e(provenance.protocol)] if provenance.protocol else []
    blocks += [_markdown_table(context["differing"])] if context["differing"] else []
    state = " with uncommitted changes" if provenance.dirty else ""
    blocks.append(
        "\n".join(
            [
                f"- code: {e(provenance.code_version)}{state}",
                f"- hardware: {e(provenance.hardware)}",
                "- packages: " + e(", ".join(f"{k} {v}" for k, v in sorted(provenance.packages.items()))),
                *(f"- {e(name)}: sha256 {e(digest)}" for name, digest in sorted(provenance.inputs.items())),
                f"- fingerprint of all numbers but timings: {context['fingerprint']}",
            ]
        )
    )
    if provenance.commands:
        blocks.append("\n".join("    " + " ".join(command.split()) for command in provenance.commands))
    return "\n\n".join(blocks) + "\n"


def write_report(
    name: str,
    report: ReportConfig,
    cells: Sequence[CellResult],
    source: SourceCurve | None,
    provenance: Provenance,
    out_dir: Path,
    *,
    reference: str | None = None,
    unequal: Unequal = "apart",
) -> Path:
    """Write ``report.{html,md,json}``, ``figures/*.png`` and ``csv/*.csv``; returns the HTML's path.

    Each file appears whole or not at all, the HTML last; equal input gives equal bytes.  Figures of
    an earlier report that this one does not have are removed.  ``reference`` and ``unequal`` are
    those of :func:`cad.reports.aggregate.make_study`.  Raises :class:`cad.errors.CadError`
    where the disk refuses or a cell is given twice.
    """
    study = make_study(
        name, report.title, report.question, cells, source, reference=reference, unequal=unequal
    )
    tables = data_tables(study)
    numbers = report_json(study, tables, provenance)
    sections = make_sections(study)
    for table_name, table in tables.items():
        write_text(out_dir / "csv" / f"{table_name}.csv", table.as_csv())
    drawn = {drawing.name: drawing for section in sections for drawing in section.drawings}
    for figure_name in FIGURES:
        path = out_dir / "figures" / f"{figure_name}.png"
        if figure_name not in drawn:
            path.unlink(missing_ok=True)
            continue
        with atomic_path(path) as temporary:
            temporary.write_bytes(drawn[figure_name].png)
    write_text(out_dir / "report.json", _lines_of_json(numbers))
    context = _context(study, sections, numbers["fingerprint"], provenance)
    write_text(out_dir / "report.md", _markdown(context))
    html = out_dir / "report.html"
    write_text(html, _environment().get_template("report.html.j2").render(context))
    return html
