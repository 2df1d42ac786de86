"""From stored returns to a page that a researcher shows to others: numbers, figures, text."""

from __future__ import annotations

from cad.reports.page import write_report
from cad.reports.results import CellResult, Provenance, SourceCurve

__all__ = ["CellResult", "Provenance", "SourceCurve", "write_report"]
