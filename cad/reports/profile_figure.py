"""Performance profile: in how many of its runs does a model reach at least a given return?"""

from __future__ import annotations

import math

import numpy as np

from cad.reports.aggregate import Group, Study
from cad.reports.featured import LEGEND_WIDTH, featured_styles
from cad.reports.results import FloatArray
from cad.reports.style import Drawing, new_figure, render, wrap

COLUMNS = ("label", "threshold", "share", "low_95", "high_95")
THRESHOLDS = np.round(np.linspace(0, 1, 201), 10)
MOST_GROUPS = 6


def profile(group: Group) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Share of (seed, task) pairs at or above each threshold, and its 95% interval."""
    # Sums of rewards divided by optima: a return of the optimum itself must count as reaching 1.
    reached = (group.scores[..., None] >= THRESHOLDS - 1e-9).astype(np.float64)
    return reached.mean(axis=(0, 1)), *group.interval(reached)


def _banded(study: Study) -> tuple[Group | None, ...]:
    return (study.best(ad=False) or study.best(ad=True), study.references[-1] if study.references else None)


def rows(study: Study) -> list[tuple[str | float | None, ...]]:
    """Of the table with :data:`COLUMNS`."""
    return [
        (group.label, *(float(value) if np.isfinite(value) else None for value in point))
        for group in study.scored
        for point in zip(THRESHOLDS, *profile(group), strict=True)
    ]


def sentence(study: Study) -> str:
    """How many runs come close to the optimum."""
    parts = [
        f"{(group.scores >= 0.9 - 1e-9).mean():.0%} of {group.scores.size} for {group.label}"
        for group in dict.fromkeys([study.best(ad=False), *study.references])
        if group is not None
    ]
    return f"Pairs of seed and task that reach 90% of the optimum: {', '.join(parts)}." if parts else ""


def draw_profile(study: Study) -> Drawing | None:
    """Curves of the best models and of the references; None where nothing can be compared."""
    groups = study.featured(MOST_GROUPS)
    if not groups or not study.comparable:
        return None
    styles = featured_styles(study, groups)
    figure = new_figure(4.0)
    ax = figure.subplots()
    for group in groups:
        share, low, high = profile(group)
        style = styles[group.label]
        if group in _banded(study):  # more bands than two hide one another
            ax.fill_between(THRESHOLDS, low, high, step="post", color=style.colour, alpha=0.13, linewidth=0)
        ax.step(
            THRESHOLDS, share, where="post", color=style.colour, linestyle=style.dash,
            label=wrap(group.label, LEGEND_WIDTH),
        )  # fmt: skip
    lowest = min(float(group.scores.min()) for group in groups)
    ax.set_xlim(max(0.0, math.floor(10 * lowest) / 10 - 0.1), 1)  # to the left of it all curves are 1
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("return / optimum, last episodes")
    ax.set_ylabel("share of seeds x tasks\nthat reach at least that")
    figure.legend(loc="outside lower center", ncols=min(3, len(groups)))
    screen, paper = render(figure, "profile")
    left = len(study.scored) - len(groups)
    return Drawing(
        "profile",
        "Performance profile",
        f"Each pair of training seed and {study.task_kind} task counts once, its roll-outs averaged; a curve "
        "further up and to the right is better, and where curves cross no single mean tells the whole. "
        "Bands, of the best model and the reference: 95% bootstrap intervals, point by point."
        + (f" References and best models; {left} further are in the CSV file." if left else ""),
        "Step chart of the share of seeds and tasks above each return. " + sentence(study),
        ("profile",),
        screen,
        paper,
    )
