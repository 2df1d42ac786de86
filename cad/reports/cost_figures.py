"""The figures about what a model costs and how its training went."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from cad.reports.aggregate import CellSummary, Group, Study
from cad.reports.results import CellResult
from cad.reports.style import (
    INK,
    MUTED,
    PALETTE,
    SURFACE,
    Drawing,
    LineStyle,
    is_crowded,
    line_styles,
    new_figure,
    render,
    wrap,
)

_MOST_DEPTH_PANELS = 8
_COSTS: tuple[tuple[str, Callable[[CellResult], float | None]], ...] = (
    ("state kept for a roll-out, KiB", lambda r: None if r.state_bytes is None else r.state_bytes / 1024),
    ("training, seconds", lambda r: r.train_seconds),
    ("evaluation, steps a second", lambda r: r.evaluation_steps_per_second),
)


def draw_cost(study: Study) -> Drawing | None:
    """Return against state, training time and evaluation speed; None without any known cost."""
    known = [
        (text, cost)
        for text, cost in _COSTS
        if any(group.mean(cost) is not None and (group.mean(cost) or 0) > 0 for group in study.scored)
    ]
    if not known or not study.comparable:
        return None
    styles = line_styles(study)
    figure = new_figure(3.9)
    axes = figure.subplots(1, len(known), sharey=True, squeeze=False)[0]
    for ax, (text, cost) in zip(axes, known, strict=True):
        for group in study.scored:
            _points(ax, group, cost, styles[group.label], seeds=not is_crowded(study))
        ax.margins(y=0.1)
        ax.set_xscale("log")
        _plain_log_ticks(ax)
        ax.set_xlabel(text)
    axes[0].set_ylabel("return / optimum, last episodes")
    handles = _marks(study, styles)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(3 if len(handles) < 7 else 4, len(handles))
    )
    svg, png = render(figure, "cost")
    crowded = is_crowded(study)
    return Drawing(
        "cost",
        "Return against cost",
        "State is what one roll-out keeps between steps (key/value cache and latents). Marks are means "
        "over seeds"
        + (" (small: single seeds)" if not crowded and any(len(g.done) > 1 for g in study.scored) else "")
        + ". Up is better; for state and training, left is cheaper; for "
        "evaluation, right is faster."
        + (" Colour tells the compression depth, the mark's shape the number of latents." if crowded else ""),
        "Scatter charts of return against "
        + ", ".join(text for text, _ in known)
        + "; the cost table below has the numbers.",
        ("cost",),
        svg,
        png,
    )


def _marks(study: Study, styles: dict[str, LineStyle]) -> list[Artist]:
    """Legend: a mark a group; where groups share colours, a colour a depth and a shape a latent count."""

    def mark(colour: str, marker: str, label: str) -> Artist:
        return Line2D([], [], color=colour, marker=marker, markersize=8, linestyle="none", label=label)

    crowded = is_crowded(study)
    marks: dict[str, Artist] = {}
    for group in study.scored:
        style = styles[group.label]
        text = wrap(style.legend, 44)
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
    ax.plot(
        *np.mean(known, axis=0).reshape(2, 1),
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
        if len(ticks) <= 6:
            break
    ax.set_xlim(low, high)
    ax.set_xticks(ticks, [f"{tick:,g}" if tick < 1e5 else f"{tick:.0e}" for tick in ticks])
    ax.set_xticks([], minor=True)


def series(cell: CellSummary, metric: str) -> tuple[list[float], list[float]]:
    """Steps and values of one metric; lines without it, or with a value that is not finite, are left out."""
    pairs = [
        (float(line["step"]), float(line[metric]))
        for line in cell.result.metrics or ()
        if isinstance(line.get("step"), int | float) and isinstance(line.get(metric), int | float)
    ]
    pairs = [(step, value) for step, value in pairs if math.isfinite(value)]
    return [step for step, _ in pairs], [value for _, value in pairs]


def by_depth(cell: CellSummary, metric: str) -> dict[int, str]:
    """Depth -> metric name, of the metrics ``<metric>_depth_<k>`` that a cell's training wrote."""
    prefix = f"{metric}_depth_"
    names = {name for line in cell.result.metrics or () for name in line if name.startswith(prefix)}
    depths = {int(name[len(prefix) :]): name for name in names if name[len(prefix) :].isdigit()}
    return dict(sorted(depths.items()))


def draw_training(study: Study) -> Drawing | None:
    """Loss, accuracy and validation return of every training; None where no metrics are stored."""
    panels = [
        (name, text)
        for name, text in (
            ("loss", "loss, nats an action"),
            ("accuracy", "accuracy, share of actions"),
            ("validation_return", "validation return / optimum"),
        )
        if any(series(cell, name)[0] for cell in study.cells)
    ]
    if not panels:
        return None
    styles = line_styles(study)
    figure = new_figure(3.7)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    handles: dict[str, Artist] = {}
    for ax, (name, text) in zip(axes, panels, strict=True):
        for group in study.groups:
            style = styles[group.label]
            for cell in group.cells:
                steps, values = series(cell, name)
                if steps:
                    marked = name == "validation_return" and not is_crowded(study)
                    (line,) = ax.plot(
                        steps, values, color=style.colour, linestyle=style.dash,
                        linewidth=0.8 if is_crowded(study) else 1.3,
                        marker=style.marker if marked else None, markersize=4,
                    )  # fmt: skip
                    handles.setdefault(style.legend, line)
        ax.set_xlabel("update")
        ax.set_xlim(left=0)
        ax.set_title(text, fontsize=9.5, fontweight="normal")
        ax.set_ylim(bottom=0 if name == "validation_return" else None)
    figure.legend(
        list(handles.values()),
        [wrap(label, 44) for label in handles],
        loc="outside lower center",
        ncols=min(3, len(handles)),
    )
    svg, png = render(figure, "training")
    return Drawing(
        "training",
        "How training went",
        "Loss and accuracy on training batches, mean over all supervised actions; return on the validation "
        "tasks, which are split off the training tasks. One line a cell and seed, failed ones included.",
        "Line charts of loss, accuracy and validation return by update.",
        ("training",),
        svg,
        png,
    )


def draw_training_by_depth(study: Study) -> Drawing | None:
    """Loss and accuracy by compression depth, for compressed models; None where not stored."""
    groups = [
        group
        for group in study.groups
        if group.config.model.kind == "compressed_ad"
        and any(len(by_depth(cell, "loss")) > 1 for cell in group.cells)
    ]
    if not groups:
        return None
    left = max(0, len(groups) - _MOST_DEPTH_PANELS)
    groups = sorted(groups, key=lambda group: -(group.score or 0.0))[:_MOST_DEPTH_PANELS]
    columns = min(4, len(groups))
    blocks = math.ceil(len(groups) / columns)
    figure = new_figure(0.5 + 3.6 * blocks, max(5.0, 2.25 * columns))
    axes = figure.subplots(2 * blocks, columns, squeeze=False, sharex=True)
    for ax in axes.flat:
        ax.set_visible(False)
    handles: dict[str, Artist] = {}
    for i, group in enumerate(groups):
        block, column = divmod(i, columns)
        for row, metric in enumerate(("loss", "accuracy")):
            ax = axes[2 * block + row, column]
            ax.set_visible(True)
            for cell in group.cells:
                for depth, name in by_depth(cell, metric).items():
                    colour = INK if depth == 0 else PALETTE[(depth - 1) % len(PALETTE)]
                    (line,) = ax.plot(*series(cell, name), color=colour, linewidth=1.2)
                    handles.setdefault(f"depth {depth}", line)
            ax.set_ylabel({"loss": "loss, nats", "accuracy": "accuracy"}[metric] if column == 0 else "")
            if row == 0:
                ax.set_title(wrap(group.label, 28), fontsize=8.5)
            elif block == blocks - 1 or i + columns >= len(groups):
                ax.set_xlabel("update")
                ax.tick_params(labelbottom=True)
    for first in range(2):  # equal limits, so that panels compare
        row_axes = [ax for ax in axes[first::2].flat if ax.get_visible()]
        low = min(ax.get_ylim()[0] for ax in row_axes)
        high = max(ax.get_ylim()[1] for ax in row_axes)
        for ax in row_axes:
            ax.set_ylim(low, high)
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=min(6, len(handles))
    )
    svg, png = render(figure, "training_by_depth")
    return Drawing(
        "training_by_depth",
        "Loss and accuracy by compression depth",
        "Depth k: actions that are predicted with latents which were folded k times (0: none yet). A depth "
        "that lags behind depth 0 is one where the latents lose what the decoder needs."
        + (f" The best models; {left} further are in the CSV file." if left else ""),
        "Line charts of loss and accuracy by update, one line a compression depth, one column a model.",
        ("training",),
        svg,
        png,
    )
