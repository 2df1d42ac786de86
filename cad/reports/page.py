"""Writing the report: HTML that opens from disk, Markdown, JSON, CSV, PNG, PDF."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cad.config.schema import ReportConfig
from cad.reports import probe_figure, rollout_figure, wording
from cad.reports.aggregate import Study, Unequal, differing_keys, flatten, make_study
from cad.reports.markdown import markdown
from cad.reports.origin import costs_table, facts, origin_notices, provenance_json, stages_table
from cad.reports.results import CellResult, Provenance, SourceCurve
from cad.reports.sections import Section, make_sections
from cad.reports.statistics import RESAMPLES
from cad.reports.tables import (
    Table,
    cell_record,
    config_table,
    data_tables,
    fingerprint,
)
from cad.storage import atomic_path, write_text

SCHEMA_VERSION = 2


def _method(study: Study) -> str:
    """How the numbers were made, in words."""
    return (
        "A return is the sum of rewards of one episode; it is divided by the optimum of its task. Means are "
        "taken over roll-outs first, then tasks, then training seeds. “Last episodes” means the last ten of "
        f"a roll-out, or all where there are fewer. Intervals are percentiles of {RESAMPLES:,} bootstrap "
        f"joint resamples of the {study.task_kind} tasks and, where there are more than three, of the "
        "training seeds, all models on the same draws; since such percentiles of few tasks are too narrow, "
        "they are moved away from the estimate by what the t distribution asks for. The interquartile "
        "mean (IQM) leaves out the lowest and the highest quarter of all pairs of seed and task. "
        "Cells that are missing or failed enter no mean; one return that is NaN or infinite makes its cell "
        "a failed one."
    )


def report_json(
    study: Study, tables: dict[str, Table], provenance: Provenance, sections: Sequence[Section] = ()
) -> dict[str, Any]:
    """Every number and sentence of the report, as ``report.json`` holds them."""
    shared = differing_keys([group.config for group in study.groups])
    return {
        "schema_version": SCHEMA_VERSION,
        "name": study.name,
        "title": study.title,
        "question": study.question,
        "headline": wording.headline(study),
        "qualification": wording.qualification(study),
        "notices": [*wording.notices(study), *origin_notices(provenance)],
        "sentences": wording.sentences(study) | {section.anchor: section.sentence for section in sections},
        "figures": [
            {
                "name": drawing.name,
                "section": section.anchor,
                "anchor": f"figure-{drawing.name}",
                "title": drawing.title,
                "caption": drawing.caption,
                "alternative": drawing.alt,
                "tables": list(drawing.tables),
            }
            for section in sections
            for drawing in section.drawings
        ],
        "fingerprint": fingerprint(study, tables),
        "cells": [cell_record(cell) for cell in study.cells],
        "configs": {
            "differing_keys": shared,
            "groups": [
                {"label": group.label, "config": group.config.model_dump(mode="json")}
                for group in study.groups
            ],
        },
        "tables": {name: table.as_json() for name, table in _with_stages(tables, provenance).items()},
        "provenance": provenance_json(provenance),
    }


def _with_stages(tables: dict[str, Table], provenance: Provenance) -> dict[str, Table]:
    """What the fingerprint covers, and the stages, whose times differ from run to run."""
    return tables | ({"stages": stages_table(provenance)} if provenance.stages else {})


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
    environment.filters["drawing"] = lambda drawing: Markup(drawing.screen.svg)
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
        "notices": [*wording.notices(study), *origin_notices(provenance)],
        "sections": sections,
        "method": _method(study),
        "differing": config_table(study, keys, flats) if keys else None,
        "shared": shared,
        "provenance": provenance,
        "costs": costs_table(provenance),
        "facts": facts(provenance, sorted({cell.result.config.seed for cell in study.cells}), print_),
    }


def _remove_stale(out_dir: Path, figures: Sequence[str], tables: Sequence[str]) -> None:
    """Remove what the report that was here had and this one has not; nothing that it did not write."""
    try:
        before = json.loads((out_dir / "report.json").read_text(encoding="utf-8"))
        drawn, written = [figure["name"] for figure in before["figures"]], list(before["tables"])
    except (OSError, ValueError, KeyError, TypeError):
        return  # none, or one of before figures were listed
    for name in set(drawn) - set(figures):
        for ending in ("png", "pdf"):
            (out_dir / "figures" / f"{Path(name).name}.{ending}").unlink(missing_ok=True)
    for name in set(written) - set(tables):
        (out_dir / "csv" / f"{Path(name).name}.csv").unlink(missing_ok=True)


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
    """Write ``report.{html,md,json}``, ``figures/*.{png,pdf}`` and ``csv/*.csv``; returns the HTML's path.

    Each file appears whole or not at all, the HTML last; equal input gives equal bytes.  Figures and
    tables of an earlier report that this one does not have are removed.  ``reference`` and ``unequal``
    are those of :func:`cad.reports.aggregate.make_study`.  Raises :class:`cad.errors.CadError` where the
    disk refuses or a cell is given twice.
    """
    study = make_study(
        name, report.title, report.question, cells, source, reference=reference, unequal=unequal
    )
    tables = data_tables(study) | probe_figure.probe_tables(study) | rollout_figure.rollout_tables(study)
    sections = make_sections(study)
    numbers = report_json(study, tables, provenance, sections)
    tables = _with_stages(tables, provenance)
    drawings = [drawing for section in sections for drawing in section.drawings]
    _remove_stale(out_dir, [drawing.name for drawing in drawings], list(tables))
    for table_name, table in tables.items():
        write_text(out_dir / "csv" / f"{table_name}.csv", table.as_csv())
    for drawing in drawings:
        for ending, content in (("png", drawing.prints.png), ("pdf", drawing.prints.pdf)):
            with atomic_path(out_dir / "figures" / f"{drawing.name}.{ending}") as temporary:
                temporary.write_bytes(content)
    write_text(out_dir / "report.json", _lines_of_json(numbers))
    context = _context(study, sections, numbers["fingerprint"], provenance)
    write_text(out_dir / "report.md", markdown(context))
    html = out_dir / "report.html"
    write_text(html, _environment().get_template("report.html.j2").render(context))
    return html
