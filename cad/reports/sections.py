"""The questions of the report, in order, each with its figures, its tables and its answer.

Whatever stands in a section is in every format: a new figure needs a place here, and nothing in the
template.
"""

from __future__ import annotations

from dataclasses import dataclass

from cad.reports import cost_figures, figures, probe_figure, region_figure, rollout_figure, wording
from cad.reports.aggregate import Study
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
    with drawing_style():
        learning = figures.draw_learning(study)
        grid = figures.draw_grid(study)
        goals, maps = figures.draw_goals(study), figures.draw_maps(study)
        rollouts = rollout_figure.draw_rollouts(study)
        regions = region_figure.draw_regions(study)
        latents = probe_figure.draw_probe(study), probe_figure.draw_attention(study)
        cost = cost_figures.draw_cost(study)
        training = cost_figures.draw_training(study), cost_figures.draw_training_by_depth(study)
    answers = wording.sentences(study)
    goal_numbers = goals_table(study)
    made = [
        Section(
            "learning-in-context",
            "Does it learn in context?",
            answers["learning-in-context"],
            _present(learning),
            (),
        ),
        Section(
            "depth-and-latents",
            "How does the return depend on compression depth and latents?",
            answers["depth-and-latents"],
            _present(grid),
            (results_table(study),) if study.groups else (),
        ),
        Section(
            "where-it-fails",
            "Where does it fail?",
            answers["where-it-fails"],
            _present(goals, maps, rollouts),
            (goal_numbers,) if goal_numbers else (),
        ),
        Section(
            "when-it-compresses",
            "When did it choose to compress?",
            region_figure.regions_sentence(study),
            _present(regions),
            (),
        ),
        Section(
            "what-latents-hold",
            "What is in the latents?",
            probe_figure.probe_sentence(study),
            _present(*latents),
            (),
        ),
        Section(
            "cost-of-compression",
            "What does compression cost or save?",
            answers["cost-of-compression"],
            _present(cost),
            (cost_table(study),) if study.groups else (),
        ),
        Section("how-training-went", "How did training go?", "", _present(*training), ()),
    ]
    return [section for section in made if section.drawings or section.tables]


def _present(*drawings: Drawing | None) -> tuple[Drawing, ...]:
    return tuple(drawing for drawing in drawings if drawing is not None)
