"""What a section of the report is: a question, and what answers it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cad.reports.data import ShownTable, Study, Table
from cad.reports.plotting import Drawing


@dataclass(frozen=True)
class Section:
    """One question of the report.

    Whatever belongs to a section is in every format of the report.
    """

    anchor: str
    heading: str
    sentences: tuple[Callable[[Study], str], ...]  # together they answer the question
    figures: tuple[Callable[[Study], Drawing | None], ...] = ()
    shown_tables: tuple[Callable[[Study], ShownTable | None], ...] = ()  # for people
    data_tables: tuple[Callable[[Study], dict[str, Table]], ...] = ()  # CSV file stem -> exact numbers
    across_tasks: bool = False  # whether it compares models of different tasks, which others must not

    def sentence(self, study: Study) -> str:
        """The answer; empty where nothing can be compared."""
        if not (study.comparable or self.across_tasks):
            return ""
        return " ".join(text for part in self.sentences if (text := part(study)))


@dataclass(frozen=True)
class Answer:
    """A section about one study, drawn."""

    anchor: str
    heading: str
    sentence: str
    drawings: tuple[Drawing, ...]
    tables: tuple[ShownTable, ...]


def left_out(count: int, shown: str) -> str:
    """What a caption says of models that a figure leaves out, after what it shows; empty for none."""
    return f" {shown}; {count} more are in the CSV files." if count > 0 else ""
