"""The questions that a report answers, in order, one module each.

A new section is a module with a :class:`Section` and one entry in :data:`SECTIONS`.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from cad.reports.data import Study, Table, cell_tables
from cad.reports.plotting import drawing_style, keeping_figures
from cad.reports.questions import (
    capacity,
    compression_times,
    cost,
    demonstration,
    depth_and_latents,
    equal_state,
    failures,
    knock_out,
    latents,
    learning,
    long_horizon,
    reach,
    recall,
    references,
    regret,
    shared_models,
    training,
)
from cad.reports.questions.drawing_pool import draw_all
from cad.reports.questions.section import Answer, Section

SECTIONS: tuple[Section, ...] = (
    shared_models.SECTION,
    depth_and_latents.SECTION,
    equal_state.SECTION,
    learning.SECTION,
    references.SECTION,
    capacity.SECTION,
    recall.SECTION,
    reach.SECTION,
    knock_out.SECTION,
    demonstration.SECTION,
    regret.SECTION,
    cost.SECTION,
    failures.SECTION,
    long_horizon.SECTION,
    compression_times.SECTION,
    latents.SECTION,
    training.SECTION,
)

__all__ = ["SECTIONS", "Answer", "Section", "answers", "data_tables", "figures"]


def answers(study: Study, *, prints: bool = True) -> list[Answer]:
    """All sections that have something to show, drawn; with ``prints``, also for paper."""
    draws = [draw for section in SECTIONS for draw in section.figures]
    drawn = iter(draw_all(study, draws, prints=prints))
    made = [
        Answer(
            section.anchor,
            section.heading,
            section.sentence(study),
            tuple(drawing for _ in section.figures if (drawing := next(drawn)) is not None),
            tuple(table for make in section.shown_tables if (table := make(study)) is not None),
        )
        for section in SECTIONS
    ]
    return [answer for answer in made if answer.drawings or answer.tables]


def data_tables(study: Study) -> dict[str, Table]:
    """Every exact number of the report, by CSV file stem: the cells, and the tables of all sections."""
    tables = cell_tables(study)
    for section in SECTIONS:
        for make in section.data_tables:
            tables |= make(study)
    return tables


def figures(study: Study) -> dict[str, Figure]:
    """Every figure of the report by name, not rendered: its axes can still be changed."""
    with drawing_style(), keeping_figures() as kept:
        for section in SECTIONS:
            for draw in section.figures:
                draw(study)
    return kept
