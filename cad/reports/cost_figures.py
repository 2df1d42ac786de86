"""What a model costs, what it gives for that, and which models no other beats in both."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from cad.reports.aggregate import Group, Study
from cad.reports.results import CellResult
from cad.reports.statistics import pareto_front
from cad.reports.style import (
    INK,
    MUTED,
    SURFACE,
    Drawing,
    LineStyle,
    is_crowded,
    line_styles,
    new_figure,
    render,
    wrap,
)

COLUMNS = ("label", "cost", "value", "normalised_last10", "on_front")
_MOST_NAMED = 5


@dataclass(frozen=True)
class Cost:
    """One thing that a model costs, or gives."""

    text: str  # with its unit, as axes say it
    word: str  # as sentences say it
    of: Callable[[CellResult], float | None]
    less_is_better: bool


def costs(study: Study) -> tuple[Cost, ...]:
    """State, training and speed; training in minutes where it took less than two core-hours."""
    minutes = [m for g in study.scored if (m := g.mean(lambda r: r.core_minutes)) is not None]
    per_unit, unit = (60, "core-hours") if max(minutes, default=0) >= 120 else (1, "core-minutes")
    return (
        Cost(
            "state kept for a roll-out, KiB",
            "state",
            lambda r: None if r.state_bytes is None else r.state_bytes / 1024,
            True,
        ),
        Cost(
            f"training, {unit}",
            f"training {unit}",
            lambda r: None if r.core_minutes is None else r.core_minutes / per_unit,
            True,
        ),
        Cost("evaluation, steps a second", "speed", lambda r: r.evaluation_steps_per_second, False),
    )


def front(study: Study, cost: Cost) -> list[Group]:
    """Groups than which no other is both better and cheaper, from the cheapest on."""
    known = [
        (group, value, group.score)
        for group in study.scored
        if (value := group.mean(cost.of)) is not None and value > 0 and group.score is not None
    ]
    signed = [value if cost.less_is_better else -value for _, value, _ in known]
    return [known[i][0] for i in pareto_front(signed, [score for *_, score in known])]


def rows(study: Study) -> list[tuple[str | float | None, ...]]:
    """Of the table ``pareto``: model, cost, its value, return, whether on the front."""
    if not study.comparable:
        return []
    return [
        (group.label, cost.text, group.mean(cost.of), group.score, str(group in best).lower())
        for cost in costs(study)
        for best in [front(study, cost)]
        for group in study.scored
    ]


def front_sentence(study: Study) -> str:
    """Which models no other beats in both return and cost."""
    texts = []
    for cost in costs(study):
        best = front(study, cost)
        if best and len(study.scored) > 1:
            names = ", ".join(f"{group.label} ({group.score:.2f})" for group in best[:_MOST_NAMED])
            more = f" and {len(best) - _MOST_NAMED} more" if len(best) > _MOST_NAMED else ""
            texts.append(f"in {cost.word}: {names}{more}")
    return f"Beaten by no other in both return and cost, {'; '.join(texts)}." if texts else ""


def draw_cost(study: Study) -> Drawing | None:
    """Return against state, training and speed, Pareto fronts marked; None without any known cost."""
    known = [cost for cost in costs(study) if any((group.mean(cost.of) or 0) > 0 for group in study.scored)]
    if not known or not study.comparable:
        return None
    styles, crowded = line_styles(study), is_crowded(study)
    figure = new_figure(4.1)
    axes = figure.subplots(1, len(known), sharey=True, squeeze=False)[0]
    for ax, cost in zip(axes, known, strict=True):
        best = front(study, cost)
        corners = [(group.mean(cost.of), group.score) for group in best]
        ax.plot(*zip(*corners, strict=True), color=MUTED, linewidth=1.0, zorder=1)
        for group in study.scored:
            _points(ax, group, cost.of, styles[group.label], seeds=not crowded, on_front=group in best)
        ax.margins(y=0.1)
        ax.set_xscale("log")
        _plain_log_ticks(ax)
        ax.set_xlabel(cost.text)
    axes[0].set_ylabel("return / optimum, last episodes")
    handles = _marks(study, styles)
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)))
    screen, paper = render(figure, "cost")
    return Drawing(
        "cost",
        "Return against cost",
        "State is what one roll-out keeps between steps (key/value cache and latents); training is wall time "
        "times cores, with the pre-training or the AD that a model starts from. Marks are means over seeds"
        + (" (small: single seeds)" if not crowded and any(len(g.done) > 1 for g in study.scored) else "")
        + "; ringed and joined: the Pareto front, models that no other beats in both. Up is better; for "
        "state and training, left is cheaper; for evaluation, right is faster."
        + (" Colour tells the compression depth, the mark's shape the number of latents." if crowded else ""),
        "Scatter charts of return against "
        + ", ".join(cost.text for cost in known)
        + "; the cost table below has the numbers. "
        + front_sentence(study),
        ("pareto", "cost"),
        screen,
        paper,
    )


def _marks(study: Study, styles: dict[str, LineStyle]) -> list[Artist]:
    """Legend: a mark a group; where groups share colours, a colour a depth and a shape a latent count."""

    def mark(colour: str, marker: str, label: str) -> Artist:
        return Line2D([], [], color=colour, marker=marker, markersize=8, linestyle="none", label=label)

    crowded = is_crowded(study)
    marks: dict[str, Artist] = {}
    for group in study.scored:
        style = styles[group.label]
        text = wrap(style.legend, 30)
        marks.setdefault(text, mark(style.colour, "o" if crowded and not group.is_ad else style.marker, text))
    if crowded:
        for group in sorted(study.scored, key=lambda group: group.n_latent or 0):
            if group.n_latent is not None:
                text = f"{group.n_latent} latents"
                marks.setdefault(text, mark(MUTED, styles[group.label].marker, text))
    return list(marks.values())


def _points(
    ax: Axes,
    group: Group,
    cost: Callable[[CellResult], float | None],
    style: LineStyle,
    *,
    seeds: bool,
    on_front: bool,
) -> None:
    known = [
        (x, cell.normalised_last10)
        for cell in group.done
        if (x := cost(cell.result)) and x > 0 and cell.normalised_last10 is not None
    ]
    if not known:
        return
    if seeds and len(known) > 1:
        ax.plot(*zip(*known, strict=True), style.marker, color=style.colour, markersize=3.5, alpha=0.6)
    middle = np.mean(known, axis=0).reshape(2, 1)
    if on_front:
        ax.plot(*middle, "o", markersize=15, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.1)
    ax.plot(
        *middle,
        marker=style.marker,
        color=style.colour,
        markersize=9,
        markeredgecolor=SURFACE,
        markeredgewidth=0.8,
        linestyle="none",
    )


def _plain_log_ticks(ax: Axes) -> None:
    """Few, plain numbers on a logarithmic axis (1, 2, 5, 10 ...), with a margin around the data."""
    low, high = ax.dataLim.intervalx
    low, high = low / 1.5, high * 1.5
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1,)):
        ticks = [digit * 10.0**power for power in powers for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        labels = [f"{tick:,g}" if tick < 1e5 else f"{tick:.0e}" for tick in ticks]
        if len(ticks) <= 6 and sum(map(len, labels)) <= 20:
            break
    ax.set_xlim(low, high)
    ax.set_xticks(ticks, labels)
    ax.set_xticks([], minor=True)
