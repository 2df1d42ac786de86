"""The audit's table for a terminal."""

from __future__ import annotations

from rich.table import Table

from cad.histories.audit import AuditReport


def audit_table(report: AuditReport) -> Table:
    """One row a task: its part of the split, optimum, and the source agents' first and last return.

    Without an optimum, or what was stated instead, there is a dash in its place.
    """
    whole = report.best_in_words
    table = Table(pad_edge=False)
    table.add_column("task", justify="right")
    table.add_column("what is hidden")
    table.add_column("part")
    for heading in (whole or "optimum", "first episode", "last episode"):
        table.add_column(heading, justify="right")
    for row in report.table:
        table.add_row(
            str(row.task_id),
            row.description,
            row.part,
            f"{row.optimal_return:.4g}" if whole else "-",
            f"{row.first_return:.2f}",
            f"{row.last_return:.2f}",
        )
    if report.table:
        n = len(report.table)
        table.add_section()
        table.add_row(
            "",
            f"mean of {n} tasks",
            "",
            f"{sum(row.optimal_return for row in report.table) / n:.2f}" if whole else "-",
            f"{sum(row.first_return for row in report.table) / n:.2f}",
            f"{sum(row.last_return for row in report.table) / n:.2f}",
        )
    return table
