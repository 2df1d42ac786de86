"""What does compression cost or save?  Return against state, training and speed."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from cad.reports.data import (
    Cost,
    ModelResult,
    ShownTable,
    Study,
    costs,
    describe,
    front,
    mean_compressions,
    mean_cost,
    minutes_before,
    number_cell,
    pareto_tables,
    text_cell,
)
from cad.reports.plotting import (
    INK,
    MUTED,
    SURFACE,
    Drawing,
    Hover,
    LineStyle,
    is_crowded,
    line_styles,
    new_figure,
    render,
    wrap,
)
from cad.reports.questions.section import Section

_MOST_NAMED = 5
_LEAST_RANGE = 0.2  # of the whole, on the axis of returns


def _cost_sentence(study: Study) -> str:
    """State and training of the best model, beside those of the best AD."""
    best, reference = study.best(ad=False), study.best(ad=True)
    if best is None or reference is None:
        return ""
    ours, theirs = (mean_cost(model, lambda result: result.state_bytes) for model in (best, reference))
    if not ours or not theirs:
        return ""
    text = (
        f"{describe(best)} keeps {ours / 1024:,.1f} KiB for a roll-out, {ours / theirs:.2f} times what "
        f"{describe(reference)} keeps ({theirs / 1024:,.1f} KiB)"
    )
    ours, theirs = (mean_cost(model, lambda result: result.core_minutes) for model in (best, reference))
    if ours and theirs:
        text += f", after {ours / theirs:.2f} times the core-hours of training ({ours / 60:,.2g})"
    return text + "."


def _front_sentence(study: Study) -> str:
    """Which models no other beats in both return and cost."""
    texts = []
    for cost in costs():
        best = front(study, cost)
        if best and len(study.scored) > 1:
            names = ", ".join(f"{model.label} ({model.score:.2f})" for model in best[:_MOST_NAMED])
            more = f" and {len(best) - _MOST_NAMED} more" if len(best) > _MOST_NAMED else ""
            texts.append(f"in {cost.word}: {names}{more}")
    return f"Beaten by no other in both return and cost, {'; '.join(texts)}." if texts else ""


def _draw(study: Study) -> Drawing | None:
    """Return against state, training and speed, Pareto fronts marked; None without any known cost."""
    known = [c for c in costs() if any((mean_cost(model, c.of) or 0) > 0 for model in study.scored)]
    if not known or not study.comparable:
        return None
    styles, crowded = line_styles(study), is_crowded(study)
    figure, hover = new_figure(3.2), Hover()
    axes = figure.subplots(1, len(known), sharey=True, squeeze=False)[0]
    for ax, cost in zip(axes, known, strict=True):
        best = front(study, cost)
        corners = [(mean_cost(model, cost.of), model.score) for model in best]
        ax.plot(*zip(*corners, strict=True), color=MUTED, linewidth=0.8, zorder=1)
        for model in study.scored:
            _draw_model(
                ax, hover, model, cost, styles[model.label], seeds=not crowded, on_front=model in best
            )
        ax.margins(y=0.1)
        ax.set_xscale("log")
        _plain_log_ticks(ax)
        ax.set_xlabel(cost.text)
    axes[0].set_ylabel(f"{study.measure.name}, last episodes")
    _widen(axes[0], study)
    handles = _legend_marks(study, styles)
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)))
    small = not crowded and any(len(model.done) > 1 for model in study.scored)
    return Drawing(
        "cost",
        "Return against cost",
        "State is what one roll-out keeps between steps (key/value cache and latents); training is wall time "
        "times cores, including the pre-training or the AD that a model starts from. Marks are means over "
        "seeds"
        + (" (small: single seeds)" if small else "")
        + "; ringed and joined: the Pareto front, models that no other beats in both. Up is better; for "
        "state and training, left is cheaper; for evaluation, right is faster."
        + (" Colour shows the compression depth, shape the number of latents." if crowded else ""),
        "Scatter charts of return against "
        + ", ".join(cost.text for cost in known)
        + "; the cost table below has the numbers. "
        + _front_sentence(study),
        ("pareto", "cost"),
        *render(figure, "cost", hover),
    )


def _widen(ax: Axes, study: Study) -> None:
    """A range of 0.2 of the whole at least: alike returns stand at alike heights."""
    scores = [model.score or 0.0 for model in study.scored]
    whole = 1.0 if study.measure.unit else max(map(abs, scores)) or 1.0
    low, high = ax.get_ylim()
    missing = max(0.0, _LEAST_RANGE * whole - (high - low))
    if missing:
        below = min(missing / 2, low) if low >= 0 else missing / 2
        ax.set_ylim(low - below, high + missing - below)


def _legend_marks(study: Study, styles: dict[str, LineStyle]) -> list[Artist]:
    """A mark a model; where models share colours, a colour a depth and a shape a latent count."""

    def mark(colour: str, marker: str, label: str) -> Artist:
        return Line2D([], [], color=colour, marker=marker, markersize=6.2, linestyle="none", label=label)

    crowded = is_crowded(study)
    marks: dict[str, Artist] = {}
    for model in study.scored:
        style = styles[model.label]
        text = wrap(style.legend, 30)
        shape = "o" if crowded and not model.facts.is_ad else style.marker
        marks.setdefault(text, mark(style.colour, shape, text))
    if crowded:
        for model in sorted(study.scored, key=lambda model: model.facts.n_latent or 0):
            if model.facts.n_latent is not None:
                text = f"{model.facts.n_latent} latents"
                marks.setdefault(text, mark(MUTED, styles[model.label].marker, text))
    return list(marks.values())


def _draw_model(
    ax: Axes, hover: Hover, model: ModelResult, cost: Cost, style: LineStyle, *, seeds: bool, on_front: bool
) -> None:
    known = [
        (x, cell.normalised_last10)
        for cell in model.done
        if (x := cost.of(cell.result)) and x > 0 and cell.normalised_last10 is not None
    ]
    if not known:
        return
    if seeds and len(known) > 1:
        ax.plot(*zip(*known, strict=True), style.marker, color=style.colour, markersize=2.7, alpha=0.6)
        hover.points(
            ax,
            *np.transpose(known),
            name=f"{model.label}, single seeds",
            x_name=cost.text,
            y_name=model.measure.name,
        )
    x, y = np.mean(known, axis=0).reshape(2, 1)
    if on_front:
        ax.plot(x, y, "o", markersize=11.7, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=0.85)
    ax.plot(
        x, y, marker=style.marker, color=style.colour, markersize=7, markeredgecolor=SURFACE,
        markeredgewidth=0.6, linestyle="none",
    )  # fmt: skip
    hover.points(ax, x, y, name=model.label, x_name=cost.text, y_name=model.measure.name)


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


def _table(study: Study) -> ShownTable | None:
    """Means over done seeds of what a model costs; None without models."""
    rows = [
        (
            text_cell(model.label),
            number_cell(model.score),
            number_cell(mean_cost(model, lambda r: r.n_parameters), ",.0f"),
            number_cell(mean_cost(model, lambda r: r.state_bytes), ",.1f", 1 / 1024),
            number_cell(mean_cost(model, lambda r: r.updates), ",.0f"),
            number_cell(mean_cost(model, lambda r: r.supervised_actions), ",.2f", 1e-6),
            number_cell(mean_cost(model, lambda r: r.core_minutes), ",.3f", 1 / 60),
            number_cell(mean_cost(model, minutes_before), ",.3f", 1 / 60),
            number_cell(mean_cost(model, lambda r: r.evaluation_steps_per_second), ",.0f"),
            number_cell(mean_compressions(model), ",.1f"),
        )
        for model in study.models
    ]
    headers = ("model", study.measure.name, "parameters", "state, KiB a roll-out", "updates",
               "supervised actions, millions", "training, core-hours", "of it before its own training",
               "evaluation, steps / s", "compressions a roll-out")  # fmt: skip
    caption = "What each model costs, means over done seeds, including the pre-training or AD it starts from"
    return ShownTable("cost-table", caption, headers, rows) if rows else None


SECTION = Section(
    "cost-of-compression",
    "What does compression cost or save?",
    sentences=(_cost_sentence, _front_sentence),
    figures=(_draw,),
    shown_tables=(_table,),
    data_tables=(pareto_tables,),
)
