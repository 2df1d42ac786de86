"""Heat maps of depth x latents, with AD beside them."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from cad.reports.data import ModelResult, Panel, Study, interval_note
from cad.reports.plotting.heat_map import HEAT_COLOURS, bare_axes, close_scale, tile
from cad.reports.plotting.hover import Hover
from cad.reports.plotting.style import SMALL, WIDTH, new_figure, wrap

_MOST_AD = 4


def draw_grid_map(study: Study, panels: list[Panel], references: list[ModelResult], hover: Hover) -> Figure:
    """One heat map a panel, and AD beside the first."""
    scores = [model.score for model in study.scored if model.score is not None]
    norm = close_scale(scores, shares=bool(study.measure.unit))
    columns = max(len(panel.latents) for panel in panels)
    heights = [0.48 * len(panel.depths) + 0.66 for panel in panels]
    ad_columns = min(len(references), _MOST_AD)
    ratios = [columns, *([1.05 * ad_columns] if ad_columns else []), 0.12]
    figure = new_figure(max(1.5, sum(heights)), min(WIDTH, 1.17 + 0.9 * sum(ratios)))
    axes = figure.subplots(
        len(panels), len(ratios), squeeze=False, width_ratios=ratios, height_ratios=heights
    )
    for row, panel in enumerate(panels):
        ax = axes[row, 0]
        bare_axes(ax, len(panel.latents), len(panel.depths))
        for i, depth in enumerate(panel.depths):
            for j, n_latent in enumerate(panel.latents):
                _draw_spot(ax, hover, (j, i), panel.spots.get((depth, n_latent)), norm)
        ax.set_xticks(np.arange(len(panel.latents)) + 0.5, [str(n) for n in panel.latents])
        ax.set_yticks(np.arange(len(panel.depths)) + 0.5, [str(n) for n in panel.depths])
        ax.set_xlabel("latents")
        ax.set_ylabel("compression depth")
        ax.set_title(wrap(panel.title, max(24, 15 * len(panel.latents))))
        for other in axes[row, 1:]:
            other.set_visible(False)
    if references:
        ax = axes[0, 1]
        ax.set_visible(True)
        best_first = sorted(references, key=lambda model: -(model.score or -1.0))
        shown = sorted(best_first[:ad_columns], key=lambda model: model.facts.window)
        rows = len(panels[0].depths)
        bare_axes(ax, len(shown), rows)
        for j, model in enumerate(shown):
            _draw_spot(ax, hover, (j, (rows - 1) / 2), model, norm)
        ax.set_xticks(np.arange(len(shown)) + 0.5, [f"{model.facts.window}" for model in shown])
        ax.xaxis.set_ticks_position("bottom")
        ax.set_yticks([])
        ax.set_xlabel("window, steps")
        ax.set_title("AD")
    axes[0, -1].set_visible(True)
    bar = figure.colorbar(ScalarMappable(norm, HEAT_COLOURS), cax=axes[0, -1])
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=1.6, labelsize=6.2)
    bar.set_label(study.measure.name, fontsize=SMALL)
    return figure


def _draw_spot(
    ax: Axes, hover: Hover, at: tuple[float, float], model: ModelResult | None, norm: Normalize
) -> None:
    """One spot of a grid, with its score and how many seeds are in it."""
    if model is None:
        tile(ax, hover, at, None, "not run", norm, size=7)
    elif model.score is None:
        states = [cell.status.partition(":")[0] for cell in model.cells]
        text = next((state for state in ("failed", "pruned") if state in states), "missing")
        tile(ax, hover, at, None, text, norm, size=7)
    else:
        of = f" of {len(model.cells)}" if len(model.done) < len(model.cells) else ""
        text = f"{model.score:.3f}\nn = {len(model.done)}{of}"
        name = f"{model.label} {interval_note(*model.returns.score_interval, len(model.done))}".strip()
        tile(ax, hover, at, model.score, text, norm, size=7, name=name, measure=model.measure.name)
