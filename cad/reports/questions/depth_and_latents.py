"""How does the return depend on compression depth and latents?  The grid, and means along its axes."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from cad.reports.data import (
    FEW_SEEDS,
    Marginal,
    ModelResult,
    Panel,
    Shown,
    ShownTable,
    Study,
    extremes,
    grid_panels,
    grid_tables,
    interval_cell,
    interval_note,
    intervals_over,
    is_long,
    last_episodes,
    marginal_tables,
    marginals,
    number_cell,
    plural,
    shared_seeds,
    text_cell,
    unclaimed,
)
from cad.reports.plotting import (
    INK,
    MUTED,
    PALETTE,
    TEXT,
    Drawing,
    Hover,
    draw_grid_map,
    new_figure,
    render,
    wrap,
)
from cad.reports.questions.section import Section, left_out

_MOST_PANELS = 4
_MOST_IN_WORDS = 2


def sentence(study: Study) -> str:
    """Means along the axes of each grid, and the paired difference between their ends."""
    texts = []
    panels = [panel for panel in grid_panels(study) if len(panel.spots) > 1]
    for panel in panels[:_MOST_IN_WORDS]:
        name = f"{panel.title}: " if len(panels) > 1 else ""
        if not shared_seeds(panel):
            texts.append(f"{name}The grid has gaps, so no means along its axes are given.")
            continue
        texts += [name + _in_words(panel, means) for axis in (0, 1) if (means := marginals(panel, axis))]
        seeds = len(shared_seeds(panel))
        if seeds < max(len(model.cells) for model in panel.spots.values()):
            which = "one seed" if seeds == 1 else f"{seeds} seeds"
            texts.append(f"{name}These means are over the {which} that every cell of the grid has.")
    if len(panels) > _MOST_IN_WORDS:
        more = len(panels) - _MOST_IN_WORDS
        texts.append(f"{more} further grids are in the figure and in csv/marginals.csv.")
    return " ".join(texts)


def _in_words(panel: Panel, means: list[Marginal]) -> str:
    def one(m: Marginal) -> str:
        interval = f" [{m.low:.2f}, {m.high:.2f}]" if np.isfinite(m.low) else ""
        latents = f"with {m.value} latent{'' if m.value == 1 else 's'}"
        return f"{m.mean:.2f}{interval} {latents if m.axis else f'at depth {m.value}'}"

    over, what = (("latents", "depth"), ("depths", "latents"))[means[0].axis]
    difference, low, high = extremes(panel, means[0].axis)
    tasks = len(next(iter(panel.spots.values())).task_scores)
    reason = unclaimed(len(means[0].by_seed), tasks)
    return (
        f"Mean over {over}{' [95% interval]' if np.isfinite(low) else ''}: {', '.join(map(one, means))}; "
        f"paired, {what} "
        f"{means[-1].value} minus {means[0].value} is {difference:+.3f}"
        + (f" [{low:+.3f}, {high:+.3f}]" if np.isfinite(low) else "")
        + (f"; {reason}." if reason else ".")
    )


def _draw_grid(study: Study) -> Drawing | None:
    """Depth x latents heat map, AD beside it; None where no two depths or latents can be compared."""
    every = grid_panels(study)
    panels = [panel for panel in every if len(panel.spots) > 1]
    if not panels or not study.comparable or not any(m.facts.depth is not None for m in study.scored):
        return None
    references = [model for model in study.intact if model.facts.is_ad]
    hover = Hover()
    figure = draw_grid_map(study, panels, references, hover)
    last = last_episodes(study.scored[0].returns.n_episodes)
    return Drawing(
        "grid",
        "Compression depth and latents",
        f"Mean {study.measure.noun} over the last {last} episodes; n is the number of training seeds in a "
        "mean. AD, which has neither depth nor latents, is beside it."
        + (" Models outside every grid are in the table below." if len(panels) < len(every) else ""),
        "Heat map of return by compression depth and latents. "
        + " ".join(_panel_in_words(panel) for panel in panels)
        + " AD: "
        + (", ".join(f"{_score_in_words(ad)} at window {ad.facts.window}" for ad in references) or "none")
        + ".",
        ("depth_latents",),
        *render(figure, "grid", hover),
    )


def _score_in_words(model: ModelResult | None) -> str:
    if model is None:
        return "not run"
    return "no result" if model.score is None else f"{model.score:.2f}"


def _panel_in_words(panel: Panel) -> str:
    """All numbers of a heat map, row by row."""
    rows = [
        f"depth {depth}: "
        + ", ".join(
            f"{_score_in_words(panel.spots.get((depth, n)))} with {plural(n, 'latent')}"
            for n in panel.latents
        )
        for depth in panel.depths
    ]
    return f"{panel.title}: {'; '.join(rows)}."


def _draw_marginals(study: Study) -> Drawing | None:
    """Depth on the left, latents on the right, a row a grid; None without a complete grid."""
    if not study.comparable:
        return None
    every = [panel for panel in grid_panels(study) if marginals(panel, 0) or marginals(panel, 1)]
    panels = every[:_MOST_PANELS]
    if not panels:
        return None
    figure, hover = new_figure(0.47 + 2.26 * len(panels)), Hover()
    axes = figure.subplots(len(panels), 2, squeeze=False, sharey=True)
    reference = study.best(ad=True)
    for row, panel in zip(axes, panels, strict=True):
        for axis, ax in enumerate(row):
            means = marginals(panel, axis)
            ax.set_visible(bool(means))
            if not means:
                continue
            if reference is not None and reference.score is not None:
                ax.axhline(reference.score, color=INK, linewidth=0.8, linestyle=(0, (4, 2)))
            _draw_axis(ax, hover, panel, means)
            ax.set_xlabel(("compression depth", "latents")[axis])
            ax.set_ylabel(study.measure.name)
            ax.yaxis.set_tick_params(labelleft=True)
            ax.set_title(wrap(panel.title, 44), fontsize=TEXT, fontweight="normal")
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=4)
    seeds = [len(shared_seeds(panel)) for panel in panels]
    few = 1 < max(seeds) <= FEW_SEEDS
    tasks = len(study.scored[0].task_scores)
    return Drawing(
        "marginals",
        "Depth alone, latents alone",
        "Points: mean over the other axis and the seeds that all cells of the grid have; "
        + "thin lines: rows, columns of the grid"
        + ("; ticks: single seeds" if few else "")
        + ("; dashed: the best AD." if reference is not None else ".")
        + (f" Bars: 95% bootstrap intervals over {intervals_over(study, seeds)}." if tasks > 1 else "")
        + left_out(len(every) - len(panels), f"The first {_MOST_PANELS} grids"),
        "Line charts of return by compression depth and by latents. " + sentence(study),
        ("marginals", "depth_latents"),
        *render(figure, "marginals", hover),
    )


def _draw_axis(ax: Axes, hover: Hover, panel: Panel, means: list[Marginal]) -> None:
    """Means over equally spaced values; behind them the rows or columns that they are means of."""
    axis = means[0].axis
    values = [m.value for m in means]
    others = (panel.latents, panel.depths)[axis]
    seeds = shared_seeds(panel)
    measure = next(iter(panel.spots.values())).measure
    names = {"x_name": ("compression depth", "latents")[axis], "y_name": measure.name}
    for k, other in enumerate(others):
        line = [
            (values.index(spot[axis]), float(model.scores_of(seeds).mean()))
            for spot, model in sorted(panel.spots.items())
            if spot[1 - axis] == other
        ]
        name = f"depth {other}" if axis else plural(other, "latent")
        x, y = zip(*line, strict=True)
        ax.plot(x, y, color=PALETTE[k % len(PALETTE)], linewidth=0.7, label=name)
        hover.points(ax, x, y, name=name, x_words=[str(values[i]) for i in x], **names)
    ends = np.array([[m.mean - m.low, m.high - m.mean] for m in means]).T
    at, height = range(len(means)), [m.mean for m in means]
    ax.errorbar(at, height, yerr=ends, color=MUTED, linewidth=1.25, elinewidth=1.25, zorder=3)
    ax.plot(at, height, "o", color=INK, markersize=4.7, zorder=4)
    for i, m in enumerate(means):
        if 1 < len(m.by_seed) <= FEW_SEEDS:
            ax.plot([i + 0.08] * len(m.by_seed), m.by_seed, "_", color=INK, markersize=5.4)
    notes = [interval_note(m.low, m.high, len(m.by_seed)) for m in means]
    hover.points(ax, at, height, name="mean", x_words=list(map(str, values)), notes=notes, **names)
    ax.set_xticks(at, list(map(str, values)))
    ax.set_xlim(-0.4, len(means) - 0.6)


def _table(study: Study) -> ShownTable | None:
    """Models with means, intervals and single seeds, those without a result too; None without models."""
    few = any(1 < len(model.done) <= FEW_SEEDS for model in study.scored)
    history = next((model.returns.history for model in study.scored), 0) if is_long(study) else 0
    headers = ("model", "window", "depth", "latents", study.measure.name, "95% interval", "IQM",
               "95% interval of the IQM", *([f"episodes {max(1, history - 9)}-{history}"] if history else []),
               "first episode", "lowest task", "seeds", *(["single seeds"] if few else []))  # fmt: skip
    rows = []
    for model in study.models:
        facts = model.facts
        cells = [
            text_cell(model.label),
            number_cell(facts.window if facts.window > 1 else None, ".0f"),
            number_cell(facts.depth, ".0f"),
            number_cell(facts.n_latent, ".0f"),
            number_cell(model.score),
        ]
        if model.done:
            returns, at_history = model.returns, model.returns.history_scores
            cells += [
                interval_cell(returns.score_interval),
                number_cell(returns.iqm),
                interval_cell(returns.iqm_interval),
                *([number_cell(None if at_history is None else float(at_history.mean()))] if history else []),
                number_cell(returns.first_episode),
                number_cell(min(task.normalised_last10 for task in model.task_scores)),
            ]
        else:
            cells += [number_cell(None)] * (len(headers) - len(cells) - 1 - few)
        cells.append(Shown(f"{len(model.done)} of {len(model.cells)}", float(len(model.done))))
        if few:
            cells.append(Shown(" ".join(f"{score:.3f}" for score in model.seed_scores) or "-", model.score))
        rows.append(tuple(cells))
    noun = study.measure.noun.capitalize()
    caption = f"{noun} over the last episodes; intervals are over {intervals_over(study)}"
    if study.demonstrated:
        caption += "; episodes that were demonstrated do not count"
    return ShownTable("results", caption, headers, rows) if rows else None


SECTION = Section(
    "depth-and-latents",
    "How does the return depend on compression depth and latents?",
    sentences=(sentence,),
    figures=(_draw_grid, _draw_marginals),
    shown_tables=(_table,),
    data_tables=(grid_tables, marginal_tables),
)
