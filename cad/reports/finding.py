"""Where does it fail?  The worst tasks, and roll-outs that never got a reward."""

from __future__ import annotations

import numpy as np

from cad.reports.aggregate import CellSummary, Group, Study
from cad.reports.featured import LEGEND_WIDTH, featured_styles
from cad.reports.figures import goal_text
from cad.reports.results import FloatArray
from cad.reports.style import Drawing, new_figure, render, wrap

COLUMNS = ("label", "seed", "task_id", "goal", "n_rollouts", "never_found", "median_first_episode")
CURVE_COLUMNS = ("label", "episode", "share_found")
MOST_GROUPS = 6
WORST = 3


def first_found(cell: CellSummary) -> FloatArray | None:
    """Episode (from 1) of each roll-out's first reward (tasks, rollouts); infinite where there is none."""
    if cell.normalised is None:
        return None
    rewarded = cell.normalised > 0
    first: FloatArray = np.where(rewarded.any(axis=2), rewarded.argmax(axis=2) + 1.0, np.inf)
    return first


def rows(study: Study) -> list[tuple[str | int | float | None, ...]]:
    """Of the table with :data:`COLUMNS`; no median where half of the roll-outs found nothing."""
    found: list[tuple[str | int | float | None, ...]] = []
    for cell in study.cells:
        first = first_found(cell)
        if first is None:
            continue
        medians = np.sort(first, axis=1)[:, (first.shape[1] - 1) // 2]
        for task, episodes, median in zip(cell.per_task, first, medians, strict=True):
            found.append(
                (cell.result.label, cell.result.config.seed, int(task.task_id), goal_text(task.goal),
                 len(episodes), int(np.isinf(episodes).sum()), float(median) if np.isfinite(median) else None)
            )  # fmt: skip
    return found


def found_by_episode(group: Group) -> FloatArray:
    """Share of all roll-outs, seeds and tasks that had a reward by each episode (episodes,)."""
    rewarded = np.maximum.accumulate(group.normalised > 0, axis=3)
    share: FloatArray = rewarded.mean(axis=(0, 1, 2))
    return share


def curve_rows(study: Study) -> list[tuple[str | int | float, ...]]:
    """Of the table with :data:`CURVE_COLUMNS`."""
    return [
        (group.label, i + 1, float(share))
        for group in study.scored
        for i, share in enumerate(found_by_episode(group))
    ]


def sentence(study: Study) -> str:
    """The worst tasks of the best model, and how many roll-outs never got a reward."""
    lead = study.best(ad=False) or study.best(ad=True)
    if lead is None:
        return ""
    texts = []
    worst = sorted(lead.task_scores, key=lambda task: task.normalised_last10)[:WORST]
    if len(lead.task_scores) > WORST:
        parts = [f"{goal_text(task.goal)} with {task.normalised_last10:.2f}" for task in worst]
        texts.append(f"Its worst: {', '.join(parts)}.")
    parts = []
    for group in dict.fromkeys([lead, *study.references]):
        size = group.normalised[..., 0].size
        never = round(size * (1 - found_by_episode(group)[-1]))
        parts.append(f"{never:,} of {size:,} with {group.label}")
    texts.append(f"Roll-outs that never got a reward: {', '.join(parts)}.")
    return " ".join(texts)


def draw_found(study: Study) -> Drawing | None:
    """Share of roll-outs that had a reward, by episode; None where nothing can be compared."""
    groups = study.featured(MOST_GROUPS)
    if not groups or not study.comparable:
        return None
    styles = featured_styles(study, groups)
    figure = new_figure(3.6)
    ax = figure.subplots()
    for group in groups:
        share, style = found_by_episode(group), styles[group.label]
        episodes = np.arange(1, len(share) + 1)
        ax.step(
            episodes,
            share,
            where="post",
            color=style.colour,
            linestyle=style.dash,
            label=wrap(group.label, LEGEND_WIDTH),
        )
    last = [int(np.argmax(found == found[-1])) + 1 for found in map(found_by_episode, groups)]
    longest = max(len(group.curve) for group in groups)
    ax.set_xlim(1, max(2, min(longest, round(1.2 * max(last)))))  # what comes after changes nothing
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("episode in context")
    ax.set_ylabel("share of roll-outs\nwith a reward so far")
    figure.legend(loc="outside lower center", ncols=min(3, len(groups)))
    screen, paper = render(figure, "found")
    left = len(study.scored) - len(groups)
    return Drawing(
        "found",
        "How soon the goal is found",
        "Share of all roll-outs, tasks and seeds that got a reward in this episode or before; what a curve "
        "lacks to 1 at its end never found the goal."
        + (f" References and best models; {left} further are in the CSV file." if left else ""),
        "Step chart of the share of roll-outs with a reward so far, by episode. " + sentence(study),
        ("found", "never_found"),
        screen,
        paper,
    )
