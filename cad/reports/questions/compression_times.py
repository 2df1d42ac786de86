"""When did it choose to compress?  For models that close their regions themselves."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from cad.reports.data import ModelResult, Study, choosing_models, closed_regions, count_regions, region_tables
from cad.reports.plotting import (
    DOTTED,
    INK,
    MUTED,
    PALETTE,
    Drawing,
    Hover,
    new_figure,
    render,
    wrap,
)
from cad.reports.questions.section import Section, left_out

_MOST_MODELS = 6
_MANY = 100  # regions from which on a share is a percentage
_MOST_EPISODES = 50  # of the figure; the tables have all
_CHOSEN, _FULL = PALETTE[0], PALETTE[1]
_NAMES = ("the model emitted </compress>", "its window was full")


def sentence(study: Study) -> str:
    """How many regions each model closed itself, and how long they were."""
    texts = []
    for model in choosing_models(study):
        regions = [region for cell in model.done for region in closed_regions(cell)]
        if not regions:
            texts.append(f"{model.label} closed no region.")
            continue
        lengths = [length for _, length, by_model in regions if by_model]
        share = f"{len(lengths) / len(regions):.1%}" if len(regions) >= _MANY else f"{len(lengths)}"
        text = f"{model.label} closed {share} of its {len(regions):,} regions itself"
        if lengths:
            low, middle, high = np.percentile(lengths, [5, 50, 95], method="nearest")
            text += f", after {middle:.0f} steps in the median (5% to 95%: {low:.0f} to {high:.0f})"
        text += f"; it was trained on regions of {model.facts.trained_region}."
        texts.append(text)
    return " ".join(texts)


def _draw(study: Study) -> Drawing | None:
    """Share of roll-outs that close a region at each step, and lengths of regions; None without any."""
    every = [m for m in choosing_models(study) if any(closed_regions(cell) for cell in m.done)]
    models = every[:_MOST_MODELS]
    if not models:
        return None
    figure, hover = new_figure(0.55 + 1.48 * len(models)), Hover()
    axes = figure.subplots(len(models), 2, squeeze=False, width_ratios=[2, 1])
    for (steps_ax, lengths_ax), model in zip(axes, models, strict=True):
        _draw_steps(steps_ax, hover, model)
        _draw_lengths(lengths_ax, hover, model)
    axes[-1, 0].set_xlabel("step of the roll-out")
    axes[-1, 1].set_xlabel("steps in the region")
    handles = [Line2D([], [], color=colour, linewidth=3.1) for colour in (_CHOSEN, _FULL)]
    figure.legend(handles, _NAMES, loc="outside lower center", ncols=2, labelcolor=INK)
    return Drawing(
        "regions",
        "When it chose to compress",
        "Left: the share of roll-outs that close a region after each step, all tasks and seeds together, in "
        f"the first {_MOST_EPISODES} episodes at most. Right: how many steps the regions hold; dotted: the "
        "interval at which training cuts." + left_out(len(every) - len(models), "The best models"),
        "Spike charts of the share of roll-outs that compress at each step, histograms of region lengths. "
        + sentence(study),
        ("region_moments", "region_lengths"),
        *render(figure, "regions", hover),
    )


def _draw_steps(ax: Axes, hover: Hover, model: ModelResult) -> None:
    """Share of roll-outs that close a region after each step, stacked by what closed it."""
    regions = [region for cell in model.done for region in closed_regions(cell)]
    rollouts = sum(
        cell.result.returns[:, :, 0].size for cell in model.done if cell.result.returns is not None
    )
    end = min(model.returns.n_episodes, _MOST_EPISODES) * model.config.evaluated_env.steps_per_episode
    counts = np.array([row for row in count_regions(regions, 0) if row[0] <= end], dtype=float).reshape(-1, 3)
    steps, chosen, full = counts[:, 0], counts[:, 1] / rollouts, counts[:, 2] / rollouts
    ax.vlines(steps, 0, chosen, color=_CHOSEN, linewidth=1.1)
    ax.vlines(steps, chosen, chosen + full, color=_FULL, linewidth=1.1)
    ax.set_xlim(0, end)
    ax.set_ylim(0, 1.02)
    ax.set_ylabel("share of roll-outs")
    ax.set_title(wrap(model.label, 60), fontsize=7)
    for name, shares, tops in ((_NAMES[0], chosen, chosen), (_NAMES[1], full, chosen + full)):
        there = shares > 0
        hover.points(
            ax, steps[there], tops[there], name=f"{model.label}, {name}", x_name="step of the roll-out",
            y_name="share of roll-outs", y_words=[f"{share:.4g}" for share in shares[there]],
        )  # fmt: skip


def _draw_lengths(ax: Axes, hover: Hover, model: ModelResult) -> None:
    """Share of regions of each length, stacked by what closed them."""
    regions = [region for cell in model.done for region in closed_regions(cell)]
    counts = np.array(count_regions(regions, 1), dtype=float).reshape(-1, 3)
    lengths, chosen, full = counts[:, 0], counts[:, 1] / len(regions), counts[:, 2] / len(regions)
    ax.bar(lengths, chosen, width=1, color=_CHOSEN)
    ax.bar(lengths, full, width=1, bottom=chosen, color=_FULL)
    ax.axvline(model.facts.trained_region or 0, color=MUTED, linewidth=0.8, linestyle=DOTTED)
    ax.set_xlim(0, model.facts.largest_region)
    ax.set_ylim(0, 1.02)
    ax.set_ylabel("share of regions")
    for name, shares, bottoms in ((_NAMES[0], chosen, 0 * chosen), (_NAMES[1], full, chosen)):
        rows = [*zip(lengths, bottoms, shares, strict=True)]
        hover.boxes(
            ax,
            [(length - 0.5, bottom, 1, share) for length, bottom, share in rows if share],
            [(f"{length:.0f}", f"{share:.4g}") for length, _, share in rows if share],
            name=f"{model.label}, {name}", x_name="steps in the region", y_name="share of regions",
        )  # fmt: skip


SECTION = Section(
    "when-it-compresses",
    "When did it choose to compress?",
    sentences=(sentence,),
    figures=(_draw,),
    data_tables=(region_tables,),
)
