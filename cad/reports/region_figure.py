"""When models that close their regions themselves chose to do so."""

from __future__ import annotations

from collections import Counter

import numpy as np
from matplotlib.lines import Line2D

from cad.reports.aggregate import CellSummary, Group, Study
from cad.reports.style import INK, MUTED, PALETTE, Drawing, new_figure, render, wrap

MOST_GROUPS = 6
MOST_EPISODES = 50  # of the figure; the tables have all
_ASKED, _FULL = PALETTE[0], PALETTE[1]

Closed = list[tuple[int, int, bool]]
"""Step, steps in the region, whether the model asked for it."""


def choosing_groups(study: Study) -> list[Group]:
    """Groups of region_ad with recorded compressions, best first."""
    groups = [
        group
        for group in study.scored
        if group.config.model.kind == "region_ad"
        and any(cell.result.compression_steps is not None for cell in group.done)
    ]
    return sorted(groups, key=lambda group: -(group.score or 0.0))


def closed_regions(cell: CellSummary) -> Closed:
    """All regions that a cell's roll-outs closed, in order of steps."""
    compression_steps, chosen = cell.result.compression_steps, cell.result.chosen
    if compression_steps is None or chosen is None:
        return []
    there = compression_steps > 0
    lengths = np.diff(compression_steps, axis=2, prepend=0)
    rows = zip(
        compression_steps[there].tolist(), lengths[there].tolist(), chosen[there].tolist(), strict=True
    )
    return sorted((int(step), int(length), bool(asked)) for step, length, asked in rows)


def counts(closed: Closed, part: int) -> list[tuple[int, int, int]]:
    """How many regions (by the model, with a full window) by step (``part`` 0) or by length (1)."""
    asked = Counter(region[part] for region in closed if region[2])
    full = Counter(region[part] for region in closed if not region[2])
    return [(value, asked[value], full[value]) for value in sorted(asked | full)]


def regions_sentence(study: Study) -> str:
    """How many regions the model closed itself, and how long they were."""
    texts = []
    for group in choosing_groups(study):
        closed = [region for cell in group.done for region in closed_regions(cell)]
        if not closed:
            texts.append(f"{group.label} closed no region.")
            continue
        lengths = [length for _, length, asked in closed if asked]
        text = f"{group.label} closed {len(lengths) / len(closed):.1%} of its {len(closed):,} regions itself"
        if lengths:
            low, middle, high = np.percentile(lengths, [5, 50, 95], method="nearest")
            text += f", after {middle:.0f} steps in the median (5% to 95%: {low:.0f} to {high:.0f})"
        text += f"; it was trained on regions of {group.config.model.compress_interval}."
        texts.append(text)
    return " ".join(texts)


def draw_regions(study: Study) -> Drawing | None:
    """Share of roll-outs that close a region at each step, and lengths of regions; None without any."""
    groups = [g for g in choosing_groups(study) if any(closed_regions(cell) for cell in g.done)]
    if not groups:
        return None
    left_out, groups = len(groups[MOST_GROUPS:]), groups[:MOST_GROUPS]
    figure = new_figure(0.7 + 1.9 * len(groups))
    axes = figure.subplots(len(groups), 2, squeeze=False, width_ratios=[2, 1])
    for (steps_ax, lengths_ax), group in zip(axes, groups, strict=True):
        closed = [region for cell in group.done for region in closed_regions(cell)]
        rollouts = sum(
            cell.result.returns[:, :, 0].size for cell in group.done if cell.result.returns is not None
        )
        horizon = group.config.env.steps_per_episode
        end = min(group.normalised.shape[3], MOST_EPISODES) * horizon
        for step, asked, full in counts(closed, 0):
            if step <= end:
                steps_ax.vlines(step, 0, asked / rollouts, color=_ASKED, linewidth=1.4)
                steps_ax.vlines(step, asked / rollouts, (asked + full) / rollouts, color=_FULL, linewidth=1.4)
        steps_ax.set_xlim(0, end)
        steps_ax.set_ylim(0, 1.02)
        steps_ax.set_ylabel("share of roll-outs")
        steps_ax.set_title(wrap(group.label, 60), fontsize=9)
        for length, asked, full in counts(closed, 1):
            lengths_ax.bar(length, asked / len(closed), width=1, color=_ASKED)
            lengths_ax.bar(length, full / len(closed), width=1, bottom=asked / len(closed), color=_FULL)
        lengths_ax.axvline(
            group.config.model.compress_interval, color=MUTED, linewidth=1.0, linestyle=(0, (1, 2))
        )
        lengths_ax.set_xlim(0, group.config.model.region_room)
        lengths_ax.set_ylim(0, 1.02)
        lengths_ax.set_ylabel("share of regions")
    axes[-1, 0].set_xlabel("step of the roll-out")
    axes[-1, 1].set_xlabel("steps in the region")
    figure.legend(
        [Line2D([], [], color=colour, linewidth=4) for colour in (_ASKED, _FULL)],
        ["the model said </compress>", "its window was full"],
        loc="outside lower center",
        ncols=2,
        labelcolor=INK,
    )
    screen, paper = render(figure, "regions")
    return Drawing(
        "regions",
        "When it chose to compress",
        "Left: the share of roll-outs that close a region after each step, all tasks and seeds together, in "
        f"the first {MOST_EPISODES} episodes at most. Right: how many steps the regions hold; dotted: the "
        "interval at which training cuts."
        + (f" {left_out} further models are in the CSV files." if left_out else ""),
        "Spike charts of the share of roll-outs that compress at each step, histograms of region lengths. "
        + regions_sentence(study),
        ("region_moments", "region_lengths"),
        screen,
        paper,
    )
