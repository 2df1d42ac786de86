"""What a section of the report is: a question, and what answers it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cad.reports.data import ModelResult, ShownTable, Study, Table
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


_MOST_BANDS = 3


def banded(study: Study, models: Sequence[ModelResult]) -> tuple[ModelResult, ...]:
    """The models whose intervals a figure of several curves shades: more would hide each other.

    All of up to three, else the best one and the reference; the page tells the others' values at the pointer.
    """
    if len(models) <= _MOST_BANDS:
        return tuple(models)
    chosen = (study.lead, study.references[-1] if study.references else None)
    return tuple(model for model in models if model in chosen)


def bands_of(models: Sequence[ModelResult]) -> str:
    """``Bands``, with whose they are where not every model has one."""
    return "Bands" if len(models) <= _MOST_BANDS else "Bands, of the best model and the reference"


def left_out(count: int, shown: str) -> str:
    """What a caption says of models that a figure leaves out, after what it shows; empty for none."""
    return f" {shown}; {count} more are in the CSV files." if count > 0 else ""


def no_shared_seed(count: int) -> str:
    """What a caption says of models that share no seed with the first one drawn; empty for none."""
    return f" {count} more share no seed with the first; the CSV file has them." if count > 0 else ""
