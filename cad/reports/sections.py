"""The questions of the report, in order, each with its figures, its tables and its answer.

Whatever stands in a section is in every format: a new figure needs a place here, and nothing in the
template.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from cad.reports import (
    cost_figures,
    differences,
    figures,
    finding,
    lasting,
    marginals,
    probe_figure,
    profile_figure,
    region_figure,
    rollout_figure,
    side_by_side,
    training_figures,
    wording,
)
from cad.reports.aggregate import Study
from cad.reports.comparison_tables import differences_table, side_by_side_table
from cad.reports.drawing_all import Draw, draw_all
from cad.reports.style import Drawing
from cad.reports.tables import ShownTable, cost_table, goals_table, results_table


@dataclass(frozen=True)
class Section:
    """One question, the sentence that answers it, its figures and tables."""

    anchor: str
    heading: str
    sentence: str
    drawings: tuple[Drawing, ...]
    tables: tuple[ShownTable, ...]


def make_sections(study: Study) -> list[Section]:
    """All sections that have something to show."""
    answers = wording.sentences(study)
    asked = _questions(study)
    made = iter(draw_all(study, [draw for question in asked for draw in question.draws]))
    sections = [
        Section(
            question.anchor,
            question.heading,
            answers[question.anchor],
            tuple(drawing for _ in question.draws if (drawing := next(made)) is not None),
            () if question.table is None else (question.table,),
        )
        for question in asked
    ]
    return [section for section in sections if section.drawings or section.tables]


class _Question(NamedTuple):
    anchor: str
    heading: str
    draws: list[Draw]
    table: ShownTable | None = None


def _questions(study: Study) -> list[_Question]:
    return [
        _Question(
            "side-by-side",
            "What do the experiments share?",
            [side_by_side.draw_side_by_side],
            side_by_side_table(study),
        ),
        _Question(
            "learning-in-context",
            "Does it learn in context?",
            [figures.draw_learning, profile_figure.draw_profile],
        ),
        _Question(
            "against-references",
            "Is it better than the reference?",
            [differences.draw_differences],
            differences_table(study),
        ),
        _Question(
            "depth-and-latents",
            "How does the return depend on compression depth and latents?",
            [figures.draw_grid, marginals.draw_marginals],
            results_table(study) if study.groups else None,
        ),
        _Question(
            "cost-of-compression",
            "What does compression cost or save?",
            [cost_figures.draw_cost],
            cost_table(study) if study.groups else None,
        ),
        _Question(
            "where-it-fails",
            "Where does it fail?",
            [
                figures.draw_goals,
                figures.draw_maps,
                finding.draw_found,
                rollout_figure.draw_rollouts,
            ],
            goals_table(study),
        ),
        _Question("does-it-last", "Does it last?", [lasting.draw_lasting]),
        _Question("when-it-compresses", "When did it choose to compress?", [region_figure.draw_regions]),
        _Question(
            "what-latents-hold",
            "What is in the latents?",
            [probe_figure.draw_probe, probe_figure.draw_attention],
        ),
        _Question(
            "how-training-went",
            "How did training go?",
            [
                training_figures.draw_training,
                training_figures.draw_training_by_depth,
                training_figures.draw_pretraining,
            ],
        ),
    ]
