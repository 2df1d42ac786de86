"""The report as files: page, Markdown, JSON, tables for papers, a folder to publish."""

from __future__ import annotations

from cad.reports.output.export import export_table
from cad.reports.output.publish import publish, require_free
from cad.reports.output.report import write_report

__all__ = ["export_table", "publish", "require_free", "write_report"]
