"""Writing the report: HTML that opens from disk, Markdown, JSON, CSV, PNG, PDF."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from cad.reports.data import CellResult, Provenance, SourceCurve, Unequal, make_study
from cad.reports.output.markdown import markdown
from cad.reports.output.page import page_html, report_content
from cad.reports.output.provenance_section import stage_tables
from cad.reports.output.report_json import json_text, report_json
from cad.reports.questions import answers, data_tables
from cad.schema import ReportConfig
from cad.storage import atomic_path, write_text


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
    figures: bool = True,
) -> Path:
    """Write ``report.{html,md,json}``, ``figures/*.{png,pdf}`` and ``csv/*.csv``; returns the HTML's path.

    Without ``figures``, which take half of the time, the page has its own and there are no files for
    paper. Each file appears whole or not at all, the HTML last; equal input gives equal bytes.  Figures and
    tables of an earlier report that this one does not have are removed.  ``reference`` and ``unequal``
    are those of :func:`cad.reports.make_study`.  Raises :class:`cad.errors.CadError` where the
    disk refuses or a cell is given twice.
    """
    study = make_study(
        name, report.title, report.question, cells, source, reference=reference, unequal=unequal
    )
    tables, answered = data_tables(study), answers(study, prints=figures)
    numbers = report_json(study, tables, provenance, answered)
    tables |= stage_tables(provenance)
    drawings = [drawing for answer in answered for drawing in answer.drawings]
    kept = [drawing.name for drawing in drawings if drawing.prints is not None]
    _remove_stale(out_dir, kept, list(tables))
    for table_name, table in tables.items():
        write_text(out_dir / "csv" / f"{table_name}.csv", table.as_csv())
    for drawing in drawings:
        files = {} if drawing.prints is None else {"png": drawing.prints.png, "pdf": drawing.prints.pdf}
        for ending, printed in files.items():
            with atomic_path(out_dir / "figures" / f"{drawing.name}.{ending}") as temporary:
                temporary.write_bytes(printed)
    write_text(out_dir / "report.json", json_text(numbers))
    content = report_content(study, answered, numbers["fingerprint"], provenance)
    write_text(out_dir / "report.md", markdown(content))
    html = out_dir / "report.html"
    write_text(html, page_html(content))
    return html


def _remove_stale(out_dir: Path, figures: Sequence[str], tables: Sequence[str]) -> None:
    """Remove figures and tables that only the earlier report had, and nothing that it did not write."""
    try:
        earlier = json.loads((out_dir / "report.json").read_text(encoding="utf-8"))
        drawn, written = [figure["name"] for figure in earlier["figures"]], list(earlier["tables"])
    except (OSError, ValueError, KeyError, TypeError):
        return  # no earlier report, or one that does not list its figures
    for name in set(drawn) - set(figures):
        for ending in ("png", "pdf"):
            (out_dir / "figures" / f"{Path(name).name}.{ending}").unlink(missing_ok=True)
    for name in set(written) - set(tables):
        (out_dir / "csv" / f"{Path(name).name}.csv").unlink(missing_ok=True)
