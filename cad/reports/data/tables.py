"""Table types: exact numbers for CSV and JSON, and rounded text for people."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Value = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Exact numbers behind a figure; None where unknown."""

    columns: tuple[str, ...]
    rows: list[tuple[Value, ...]]

    def as_csv(self) -> str:
        """CSV text: floats with all digits, unknown values as empty fields."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(["" if value is None else _exact(value) for value in row] for row in self.rows)
        return text.getvalue()

    def as_json(self) -> dict[str, Any]:
        """Columns and rows."""
        return {"columns": list(self.columns), "rows": [list(row) for row in self.rows]}


def _exact(value: Value) -> str:
    if isinstance(value, float):
        return repr(float(value))
    # A spreadsheet would take such a text for a formula and run it; a quote makes it text.
    if isinstance(value, str) and len(value) > 1 and value[0] in "=+-@\t\r":
        return f"'{value}"
    return str(value)


def finite(value: float | None) -> float | None:
    """A Python float; None for a value that JSON cannot hold."""
    return float(value) if value is not None and math.isfinite(value) else None


def table_if_any(name: str, columns: tuple[str, ...], rows: Sequence[tuple[Value, ...]]) -> dict[str, Table]:
    """A named table; nothing where there is no row."""
    return {name: Table(columns, list(rows))} if rows else {}


@dataclass(frozen=True)
class Shown:
    """A cell of a table for people: its text, and what it sorts by."""

    text: str
    key: float | str | None
    numeric: bool = True


@dataclass(frozen=True)
class ShownTable:
    """A table for people."""

    name: str
    caption: str
    headers: tuple[str, ...]
    rows: Sequence[tuple[Shown, ...]]
    folded: bool = False  # on the page it opens at a click


def text_cell(text: str) -> Shown:
    """A text cell; white space and control characters become single spaces."""
    text = " ".join(text.split())
    return Shown(text, text, numeric=False)


def number_cell(value: float | None, form: str = ".3f", scale: float = 1.0) -> Shown:
    """A number cell; a dash where unknown."""
    if value is None or not math.isfinite(value):
        return Shown("-", None)
    return Shown(format(value * scale, form), float(value))


def interval_cell(ends: tuple[float, float], sign: str = "") -> Shown:
    """Both ends of an interval; a dash where there is none."""
    return Shown(interval_text(*ends, sign), ends[0] if math.isfinite(ends[0]) else None)


def interval_text(low: float, high: float, sign: str = "") -> str:
    """``0.912 to 0.950``; a dash where there is no interval."""
    return f"{low:{sign}.3f} to {high:{sign}.3f}" if math.isfinite(low) else "-"


def interval_note(low: float, high: float, n_seeds: int) -> str:
    """``(95%: 0.912 to 0.950)``, with what one seed does not show; empty where there is no interval."""
    if not math.isfinite(low):
        return ""
    return f"(95%{one_seed(n_seeds)}: {interval_text(low, high)})"


def one_seed(n_seeds: int) -> str:
    """What an interval of one seed covers, after the word; empty with more."""
    return " over tasks, one seed" if n_seeds == 1 else ""
