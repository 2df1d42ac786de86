"""The questions of the report, in order, each with its figures, its tables and its answer.

Whatever stands in a section is in every format: a new figure needs a place here, and nothing in the
template.
"""

from __future__ import annotations

from dataclasses import dataclass

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
from cad.reports.style import Drawing, drawing_style
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

    def section(
        anchor: str, heading: str, drawings: list[Drawing | None], *tables: ShownTable | None
    ) -> Section:
        return Section(
            anchor,
            heading,
            answers[anchor],
            tuple(drawing for drawing in drawings if drawing is not None),
            tuple(table for table in tables if table is not None),
        )

    with drawing_style():
        made = [
            section(
                "side-by-side",
                "What do the experiments share?",
                [side_by_side.draw_side_by_side(study)],
                side_by_side_table(study),
            ),
            section(
                "learning-in-context",
                "Does it learn in context?",
                [figures.draw_learning(study), profile_figure.draw_profile(study)],
            ),
            section(
                "against-references",
                "Is it better than the reference?",
                [differences.draw_differences(study)],
                differences_table(study),
            ),
            section(
                "depth-and-latents",
                "How does the return depend on compression depth and latents?",
                [figures.draw_grid(study), marginals.draw_marginals(study)],
                results_table(study) if study.groups else None,
            ),
            section(
                "cost-of-compression",
                "What does compression cost or save?",
                [cost_figures.draw_cost(study)],
                cost_table(study) if study.groups else None,
            ),
            section(
                "where-it-fails",
                "Where does it fail?",
                [
                    figures.draw_goals(study),
                    figures.draw_maps(study),
                    finding.draw_found(study),
                    rollout_figure.draw_rollouts(study),
                ],
                goals_table(study),
            ),
            section("does-it-last", "Does it last?", [lasting.draw_lasting(study)]),
            section(
                "when-it-compresses", "When did it choose to compress?", [region_figure.draw_regions(study)]
            ),
            section(
                "what-latents-hold",
                "What is in the latents?",
                [probe_figure.draw_probe(study), probe_figure.draw_attention(study)],
            ),
            section(
                "how-training-went",
                "How did training go?",
                [
                    training_figures.draw_training(study),
                    training_figures.draw_training_by_depth(study),
                    training_figures.draw_pretraining(study),
                ],
            ),
        ]
    return [section for section in made if section.drawings or section.tables]
