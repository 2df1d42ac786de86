"""From stored returns to a page that a researcher shows to others: numbers, figures, text.

Data flows one way: ``data`` -> ``plotting`` -> ``questions`` -> ``output``.  Other rooms import from here.
"""

from __future__ import annotations

from cad.reports.data import (
    CellResult,
    Provenance,
    SourceCurve,
    StageRecord,
    Study,
    Table,
    TrainingPart,
    Unequal,
    WatchedRollout,
    make_study,
    summarise_cell,
)
from cad.reports.output import export_table, publish, require_free, write_report
from cad.reports.plotting import animation_gif, strip_png
from cad.reports.questions import data_tables, figures

__all__ = [
    "CellResult",
    "Provenance",
    "SourceCurve",
    "StageRecord",
    "Study",
    "Table",
    "TrainingPart",
    "Unequal",
    "WatchedRollout",
    "animation_gif",
    "data_tables",
    "export_table",
    "figures",
    "make_study",
    "publish",
    "require_free",
    "strip_png",
    "summarise_cell",
    "write_report",
]
