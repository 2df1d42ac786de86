"""Effect of depth alone and of latents alone: means over the other axis of a complete grid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.axes import Axes

from cad.reports.aggregate import FEW_SEEDS, Panel, Study, grid_panels
from cad.reports.differences import paired
from cad.reports.results import FloatArray
from cad.reports.statistics import mean_interval
from cad.reports.style import INK, MUTED, PALETTE, Drawing, new_figure, render, wrap

COLUMNS = ("panel", "axis", "value", "mean", "low_95", "high_95", "n_seeds", "n_models")
AXES = ("depth", "latents")
MOST_PANELS = 4
_MOST_TOLD = 2


@dataclass(frozen=True)
class Marginal:
    """Mean over the models of a grid that share one depth, or one number of latents."""

    axis: int  # 0: depth, 1: latents
    value: int
    mean: float
    low: float
    high: float
    by_seed: tuple[float, ...]
    n_models: int


def shared_seeds(panel: Panel) -> tuple[int, ...]:
    """Seeds that are done at every spot of a panel; empty where it has gaps."""
    if len(panel.spots) < len(panel.depths) * len(panel.latents):
        return ()
    seeds = [set(group.seeds) for group in panel.spots.values()]
    return tuple(sorted(set.intersection(*seeds)))


def marginals(panel: Panel, axis: int) -> list[Marginal]:
    """Along an axis with more than one value, on the seeds that all spots share; empty with gaps."""
    seeds, values = shared_seeds(panel), (panel.depths, panel.latents)[axis]
    if not seeds or len(values) <= 1:
        return []
    found = []
    for value in values:
        groups = [group for spot, group in panel.spots.items() if spot[axis] == value]
        scores: FloatArray = np.mean([group.scores_of(seeds) for group in groups], axis=0)
        low, high = mean_interval(scores[..., None], len(seeds) > FEW_SEEDS)
        by_seed = tuple(float(x) for x in scores.mean(axis=1))
        # A stretched interval may leave what a return can be.
        ends = max(float(low[0]), 0.0), min(float(high[0]), max(1.0, float(scores.max())))
        found.append(Marginal(axis, value, float(scores.mean()), *ends, by_seed, len(groups)))
    return found


def rows(study: Study) -> list[tuple[str | int | float | None, ...]]:
    """Of the table with :data:`COLUMNS`."""
    return [
        (panel.title, AXES[axis], m.value, m.mean, *(v if np.isfinite(v) else None for v in (m.low, m.high)),
         len(m.by_seed), m.n_models)
        for panel in (grid_panels(study) if study.comparable else [])
        for axis in (0, 1)
        for m in marginals(panel, axis)
    ]  # fmt: skip


def extremes(panel: Panel, axis: int) -> tuple[float, float, float]:
    """Mean at the highest value of an axis minus that at the lowest, paired, with its 95% interval."""
    seeds, values = shared_seeds(panel), (panel.depths, panel.latents)[axis]
    low, high = (
        np.mean([g.scores_of(seeds) for spot, g in panel.spots.items() if spot[axis] == value], axis=0)
        for value in (values[0], values[-1])
    )
    difference, *ends, _ = paired(high, low)
    return difference, ends[0], ends[1]


def _in_words(panel: Panel, found: list[Marginal]) -> str:
    def one(m: Marginal) -> str:
        interval = f" [{m.low:.2f}, {m.high:.2f}]" if np.isfinite(m.low) else ""
        latents = f"with {m.value} latent{'' if m.value == 1 else 's'}"
        return f"{m.mean:.2f}{interval} {latents if m.axis else f'at depth {m.value}'}"

    over = ("latents", "depths")[found[0].axis]
    difference, low, high = extremes(panel, found[0].axis)
    what = "latents" if found[0].axis else "depth"
    return (
        f"Mean over {over} [95% interval]: {', '.join(map(one, found))}; paired, {what} "
        f"{found[-1].value} minus {found[0].value} is {difference:+.3f}"
        + (f" [{low:+.3f}, {high:+.3f}]." if np.isfinite(low) else ".")
    )


def sentence(study: Study) -> str:
    """How does the final return depend on depth and on latents?"""
    texts = []
    panels = [panel for panel in grid_panels(study) if len(panel.spots) > 1]
    for panel in panels[:_MOST_TOLD]:
        name = f"{panel.title}: " if len(panels) > 1 else ""
        if not shared_seeds(panel):
            texts.append(f"{name}The grid has gaps, so no means along its axes are given.")
            continue
        texts += [name + _in_words(panel, found) for axis in (0, 1) if (found := marginals(panel, axis))]
        seeds = len(shared_seeds(panel))
        if seeds < max(len(group.cells) for group in panel.spots.values()):
            which = "one seed" if seeds == 1 else f"{seeds} seeds"
            texts.append(f"{name}These means are over the {which} that every cell of the grid has.")
    if len(panels) > _MOST_TOLD:
        texts.append(f"{len(panels) - _MOST_TOLD} further grids are in the figure and in csv/marginals.csv.")
    return " ".join(texts)


def draw_marginals(study: Study) -> Drawing | None:
    """Depth on the left, latents on the right, a row a grid; None without a complete grid."""
    if not study.comparable:
        return None
    panels = [panel for panel in grid_panels(study) if marginals(panel, 0) or marginals(panel, 1)]
    left, panels = len(panels[MOST_PANELS:]), panels[:MOST_PANELS]
    if not panels:
        return None
    figure = new_figure(0.6 + 2.9 * len(panels))
    axes = figure.subplots(len(panels), 2, squeeze=False, sharey=True)
    reference = study.best(ad=True)
    for row, panel in zip(axes, panels, strict=True):
        for axis, ax in enumerate(row):
            found = marginals(panel, axis)
            ax.set_visible(bool(found))
            if not found:
                continue
            if reference is not None and reference.score is not None:
                ax.axhline(reference.score, color=INK, linewidth=1.0, linestyle=(0, (4, 2)))
            _draw(ax, panel, found)
            ax.set_xlabel(("compression depth", "latents")[axis])
            ax.set_ylabel("return / optimum")
            ax.yaxis.set_tick_params(labelleft=True)
            ax.set_title(wrap(panel.title, 44), fontsize=9.5, fontweight="normal")
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=4)
    screen, paper = render(figure, "marginals")
    few = max(len(shared_seeds(panel)) for panel in panels) <= FEW_SEEDS
    return Drawing(
        "marginals",
        "Depth alone, latents alone",
        "Points: mean over the other axis and the seeds that all cells of the grid have; bars: 95% bootstrap "
        f"intervals over {'tasks' if few else 'seeds and tasks'}; thin lines: rows, columns of the grid"
        + ("; ticks: single seeds" if few else "")
        + ("; dashed: the best AD." if reference is not None else ".")
        + (f" {left} further grids are in the CSV file." if left else ""),
        "Line charts of return by compression depth and by latents. " + sentence(study),
        ("marginals", "depth_latents"),
        screen,
        paper,
    )


def _draw(ax: Axes, panel: Panel, found: list[Marginal]) -> None:
    """Marginal means over equally spaced values, and behind them the rows or columns they are means of."""
    axis = found[0].axis
    place = {m.value: i for i, m in enumerate(found)}
    others = (panel.latents, panel.depths)[axis]
    seeds = shared_seeds(panel)
    name = partial("{} latents".format) if axis == 0 else partial("depth {}".format)
    for k, other in enumerate(others):
        line = [
            (place[spot[axis]], float(group.scores_of(seeds).mean()))
            for spot, group in sorted(panel.spots.items())
            if spot[1 - axis] == other
        ]
        ax.plot(*zip(*line, strict=True), color=PALETTE[k % len(PALETTE)], linewidth=0.9, label=name(other))
    ends = np.array([[m.mean - m.low, m.high - m.mean] for m in found]).T
    at = list(place.values())
    ax.errorbar(at, [m.mean for m in found], yerr=ends, color=MUTED, linewidth=1.6, elinewidth=1.6, zorder=3)
    ax.plot(at, [m.mean for m in found], "o", color=INK, markersize=6, zorder=4)
    for m in found:
        if 1 < len(m.by_seed) <= FEW_SEEDS:
            ax.plot([place[m.value] + 0.08] * len(m.by_seed), m.by_seed, "_", color=INK, markersize=7)
    ax.set_xticks(at, [str(m.value) for m in found])
    ax.set_xlim(-0.4, len(found) - 0.6)
