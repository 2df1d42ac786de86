"""The figures about returns: learning in context, depth and latents, goals."""

from __future__ import annotations

import math

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cad.reports.aggregate import FEW_SEEDS, Group, Panel, Study, grid_panels, last_episodes
from cad.reports.hover import tell
from cad.reports.style import (
    GRID,
    INK,
    MUTED,
    SURFACE,
    Drawing,
    LineStyle,
    line_styles,
    new_figure,
    render,
    spread,
    wrap,
)

ONE_PANEL = 6  # groups that one panel of curves can hold and be read
MOST_ROWS = 30  # of a heat table
MOST_MAPS = 6
MOST_PANELS = 24
_COLOURS = colormaps["cividis"]


def band_words(study: Study) -> str:
    """What the shaded bands are, for captions."""
    seeds = max((len(group.done) for group in study.scored), default=0)
    text = "Bands: 95% bootstrap intervals over tasks"
    if seeds > FEW_SEEDS:
        return text + ", and over training seeds where there are more than three."
    if seeds > 1:
        return text + ", the seeds as they are; thin lines are the single seeds. No significance is claimed."
    return text + "; one training seed, so how training varies is not in them. No significance is claimed."


def _curve(ax: Axes, group: Group, style: LineStyle) -> None:
    episodes = np.arange(1, len(group.curve) + 1)
    low, high = group.band
    ax.fill_between(episodes, low, high, color=style.colour, alpha=0.14, linewidth=0)
    if 1 < len(group.done) <= FEW_SEEDS:
        for cell, seed_curve in zip(group.done, group.seed_curves, strict=True):
            name = f"{group.label}, seed {cell.result.config.seed}"
            ax.plot(episodes, seed_curve, color=style.colour, linewidth=0.7, alpha=0.7, label=name)
    (line,) = ax.plot(episodes, group.curve, color=style.colour, linestyle=style.dash, label=group.label)
    tell(line, [f"(95%: {a:.3f} to {b:.3f})" for a, b in zip(low, high, strict=True)])


def _reference_lines(ax: Axes, study: Study, n_episodes: int) -> list[tuple[float, str, str]]:
    """Optimum and source PPO; returns (height, text, colour) of their labels."""
    ax.axhline(1.0, color=MUTED, linewidth=1.0, linestyle=(0, (1, 2)))
    labels = [(1.0, "optimum", MUTED)]
    if study.source is not None:
        curve = study.source.mean(axis=0)[:n_episodes]
        ax.plot(np.arange(1, len(curve) + 1), curve, color=MUTED, linewidth=1.3, label="source PPO, learning")
        labels.append((float(curve[-1]), "source PPO, learning", MUTED))
    return labels


def _end_labels(ax: Axes, labels: list[tuple[float, str, str]], n_episodes: int, height: float) -> None:
    """Names at the right ends of lines, moved apart where they would touch."""
    wrapped = [wrap(text, 34) for _, text, _ in labels]
    gap = 0.052 * 4.6 / height * max(text.count("\n") + 1 for text in wrapped)
    placed = spread([value for value, _, _ in labels], gap)
    for (value, _, colour), text, at in zip(labels, wrapped, placed, strict=True):
        ax.annotate(
            text,
            xy=(n_episodes, value),
            xytext=(1.035, at),
            textcoords=ax.get_yaxis_transform(),
            fontsize=8.5,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 1.3,
                "shrinkA": 1,
                "shrinkB": 2,
                "relpos": (0, 0.5),
            },
        )


def _episode_axes(ax: Axes, n_episodes: int, top: float) -> None:
    ax.set_xlim(0.5 if n_episodes > 1 else 0, n_episodes + 0.5)
    ax.set_ylim(0, top)
    ax.set_yticks(np.arange(0, top, 0.2))


def draw_learning(study: Study) -> Drawing | None:
    """Return by in-context episode, every group with a done cell."""
    groups = study.scored
    if not groups:
        return None
    styles = line_styles(study)
    # Longer roll-outs are the matter of "Does it last?".
    n_episodes = max(min(len(group.curve), 2 * group.history) for group in groups)
    top = max(1.06, 1.02 * max(float(group.band[1].max()) for group in groups))
    title = "Return by in-context episode"
    if len(groups) <= ONE_PANEL:
        figure = new_figure(4.6)
        ax = figure.subplots()
        labels = _reference_lines(ax, study, n_episodes)
        for group in groups:
            _curve(ax, group, styles[group.label])
            labels.append((float(group.curve[:n_episodes][-1]), group.label, styles[group.label].colour))
        _episode_axes(ax, n_episodes, top)
        _end_labels(ax, labels, n_episodes, 4.6)
        ax.set_xlabel("episode in context")
        ax.set_ylabel("return / optimum")
        how = ""
    else:
        figure = _many_curves(study, styles, n_episodes, top)
        how = "Dashed in each panel: the best AD; grey: source PPO; dotted: the optimum. "
        if len(groups) > MOST_PANELS:
            how += f"References and best models; {len(groups) - MOST_PANELS} further are in the CSV file. "
    shown = study.featured(MOST_PANELS)
    ends = "; ".join(f"{g.label}: {g.curve[0]:.2f} to {g.curve[:n_episodes][-1]:.2f}" for g in shown)
    screen, paper = render(figure, "learning")
    return Drawing(
        "learning",
        title,
        f"{study.task_kind.capitalize()} return divided by each task's optimum, mean over roll-outs, then "
        "tasks, then seeds. "
        + how
        + (f"The first {n_episodes} episodes. " if any(len(g.curve) > n_episodes for g in groups) else "")
        + band_words(study)
        + (
            " Source PPO: the learning of the reinforcement-learning agents on the same tasks, by their own "
            "episodes, mean over streams."
            if study.source is not None
            else ""
        ),
        f"Line chart of return over optimum from episode 1 to {n_episodes}. First to last episode: {ends}.",
        ("return_by_episode", "source"),
        screen,
        paper,
    )


def _many_curves(study: Study, styles: dict[str, LineStyle], n_episodes: int, top: float) -> Figure:
    """One small panel a group, with the best AD in each."""
    groups = study.featured(MOST_PANELS)
    columns = 4
    rows = math.ceil(len(groups) / columns)
    figure = new_figure(0.5 + 1.75 * rows)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    reference = study.best(ad=True)
    for ax, group in zip(axes.flat, groups, strict=False):
        _reference_lines(ax, study, n_episodes)
        if reference is not None and group is not reference:
            ax.plot(
                np.arange(1, len(reference.curve) + 1),
                reference.curve,
                color=INK,
                linewidth=1.0,
                linestyle=(0, (4, 2)),
            )
        _curve(ax, group, styles[group.label])
        _episode_axes(ax, n_episodes, top)
        ax.set_title(wrap(group.label, 28), fontsize=8, fontweight="normal")
    for i, ax in enumerate(axes.flat):
        ax.set_visible(i < len(groups))
        ax.tick_params(labelbottom=i + columns >= len(groups))
    figure.supxlabel("episode in context", fontsize=9.5)
    figure.supylabel("return / optimum", fontsize=9.5)
    return figure


def _limits(values: list[float]) -> Normalize:
    """Colour limits at round tenths around the values."""
    low = math.floor(10 * min(values) + 1e-9) / 10
    high = math.ceil(10 * max(values) - 1e-9) / 10
    return Normalize(low, max(high, low + 0.1))


def _tile(
    ax: Axes, at: tuple[float, float], value: float | None, text: str, norm: Normalize, *, size: float,
    name: str,
) -> None:  # fmt: skip
    """One square at (column, row) with its number; hatched where there is no result."""
    column, row = at
    if value is None:
        ax.add_patch(
            Rectangle((column, row), 1, 1, facecolor="none", edgecolor=MUTED, hatch="///", linewidth=0.6)
        )
        ax.text(
            column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=size, color=INK,
            bbox={"facecolor": SURFACE, "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip
        return
    colour = _COLOURS(norm(value))
    tile = Rectangle((column, row), 1, 1, facecolor=colour, edgecolor=SURFACE, linewidth=1.2)
    tell(ax.add_patch(tile), [name, f"return / optimum: {value:.4f}"])
    luminance = 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]
    ax.text(
        column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=size,
        color="#101010" if luminance > 0.45 else "#f8f8f8",
    )  # fmt: skip


def _bare(ax: Axes, columns: int, rows: int) -> None:
    ax.set_xlim(0, columns)
    ax.set_ylim(rows, 0)
    ax.grid(False)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _spot_text(group: Group) -> str:
    n = f"n = {len(group.done)}" + (f" of {len(group.cells)}" if len(group.done) < len(group.cells) else "")
    if group.score is None:
        return "failed" if any(cell.status != "missing" for cell in group.cells) else "missing"
    return f"{group.score:.3f}\n{n}"


def _told(group: Group | None) -> str:
    """What a tile of the grid is, for the pointer."""
    if group is None or group.score is None:
        return ""
    low, high = group.score_interval
    return f"{group.label} (95%: {low:.3f} to {high:.3f})"


def draw_grid(study: Study) -> Drawing | None:
    """Depth x latents heat map, AD beside it; None without a compressed model or equal rosters."""
    every = grid_panels(study)
    panels = [panel for panel in every if len(panel.spots) > 1] or every
    scores = [group.score for group in study.scored if group.score is not None]
    if not panels or not study.comparable or not any(g.depth is not None for g in study.scored):
        return None
    references = [group for group in study.groups if group.is_ad]
    norm = _limits(scores)
    columns = max(len(panel.latents) for panel in panels)
    heights = [0.62 * len(panel.depths) + 0.85 for panel in panels]
    ad_columns = min(len(references), 4)
    ratios = [columns, *([1.05 * ad_columns] if ad_columns else []), 0.12]
    width = min(9.0, 1.5 + 1.15 * sum(ratios))
    figure = new_figure(max(1.9, sum(heights)), width)
    axes = figure.subplots(
        len(panels), len(ratios), squeeze=False, width_ratios=ratios, height_ratios=heights
    )
    for row, panel in enumerate(panels):
        ax = axes[row, 0]
        _bare(ax, len(panel.latents), len(panel.depths))
        for i, depth in enumerate(panel.depths):
            for j, n_latent in enumerate(panel.latents):
                group = panel.spots.get((depth, n_latent))
                score, text = (group.score, _spot_text(group)) if group else (None, "not run")
                _tile(ax, (j, i), score, text, norm, size=9, name=_told(group))
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
        best_first = sorted(references, key=lambda group: -(group.score or -1.0))
        shown = sorted(best_first[:ad_columns], key=lambda group: group.window)
        rows = len(panels[0].depths)
        _bare(ax, len(shown), rows)
        for j, group in enumerate(shown):
            at = (j, (rows - 1) / 2)
            _tile(ax, at, group.score, _spot_text(group), norm, size=9, name=_told(group))
        ax.set_xticks(np.arange(len(shown)) + 0.5, [f"{group.window}" for group in shown])
        ax.xaxis.set_ticks_position("bottom")
        ax.set_yticks([])
        ax.set_xlabel("window, steps")
        ax.set_title("AD")
    bar_ax = axes[0, -1]
    bar_ax.set_visible(True)
    bar = figure.colorbar(ScalarMappable(norm, _COLOURS), cax=bar_ax)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2, labelsize=8)
    bar.set_label("return / optimum", fontsize=8.5)
    screen, paper = render(figure, "grid")
    last = last_episodes(study.scored[0].normalised.shape[3])
    return Drawing(
        "grid",
        "Compression depth and latents",
        f"Mean normalised return over the last {last} episodes; n is the number of training seeds in a mean. "
        "AD, which has neither depth nor latents, stands beside it."
        + (" Models that are no part of a grid are in the table below." if len(panels) < len(every) else ""),
        "Heat map of return by compression depth and latents. "
        + " ".join(_panel_in_words(panel) for panel in panels)
        + " AD: "
        + (", ".join(f"{_score_in_words(group)} at window {group.window}" for group in references) or "none")
        + ".",
        ("depth_latents",),
        screen,
        paper,
    )


def _score_in_words(group: Group | None) -> str:
    if group is None:
        return "not run"
    return "no result" if group.score is None else f"{group.score:.2f}"


def _panel_in_words(panel: Panel) -> str:
    """All numbers of a heat map, row by row."""
    rows = [
        f"depth {depth}: "
        + ", ".join(f"{_score_in_words(panel.spots.get((depth, n)))} with {n} latents" for n in panel.latents)
        for depth in panel.depths
    ]
    return f"{panel.title}: {'; '.join(rows)}."


def goal_text(goal: tuple[int, ...]) -> str:
    """A goal as people write it: (4, 2)."""
    return "(" + ", ".join(str(int(part)) for part in goal) + ")"


def draw_goals(study: Study) -> Drawing | None:
    """Heat table of groups x evaluated tasks, best group first; None without equal rosters."""
    groups = sorted(study.scored, key=lambda group: -(group.score or 0.0))[:MOST_ROWS]
    if not groups or not study.comparable:
        return None
    tasks = sorted(groups[0].task_scores, key=lambda task: task.optimum)
    figure = new_figure(1.1 + 0.36 * len(groups))
    ax = figure.subplots()
    _bare(ax, len(tasks), len(groups))
    norm = Normalize(0, 1)
    numbers = len(tasks) <= 16
    for row, group in enumerate(groups):
        scores = {task.task_id: task.normalised_last10 for task in group.task_scores}
        for column, task in enumerate(tasks):
            value = scores[task.task_id]
            name = f"{group.label}, {goal_text(task.goal)}"
            _tile(ax, (column, row), value, f"{value:.2f}" if numbers else "", norm, size=8.5, name=name)
    ax.set_xticks(
        np.arange(len(tasks)) + 0.5,
        [f"{goal_text(task.goal)}\n{task.optimum:g}" for task in tasks],
        rotation=0 if numbers else 90,
        fontsize=8.5 if numbers else 6,
    )
    ax.set_yticks(np.arange(len(groups)) + 0.5, [wrap(group.label, 36) for group in groups], fontsize=8.5)
    ax.set_xlabel(f"{study.task_kind} goal, and below it its optimum (return)")
    worst = min(groups[0].task_scores, key=lambda task: task.normalised_last10)
    screen, paper = render(figure, "goals")
    left = len(study.scored) - len(groups)
    return Drawing(
        "goals",
        f"Return on each {study.task_kind} goal",
        "Normalised return over the last episodes, best model on top, easiest goal to the right; dark is 0, "
        "bright is the optimum." + (f" {left} further models are in the CSV file." if left else ""),
        f"Heat table of return by model and goal. The best model's lowest is "
        f"{worst.normalised_last10:.2f} on goal {goal_text(worst.goal)}.",
        ("per_task",),
        screen,
        paper,
    )


def draw_maps(study: Study) -> Drawing | None:
    """Held-out goals on Darkroom's grid, one map a group; None for other families."""
    config = study.reference_config
    groups = sorted(study.scored, key=lambda group: -(group.score or 0.0))[:MOST_MAPS]
    if config is None or config.env.name != "darkroom" or not groups or not study.comparable:
        return None
    if any(len(task.goal) != 2 for task in groups[0].task_scores):
        return None
    size = config.env.size
    columns = min(3, len(groups))
    rows = math.ceil(len(groups) / columns)
    figure = new_figure(2.95 * rows, 3.0 * columns)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax, group in zip(axes.flat, groups, strict=False):
        _bare(ax, size, size)
        ax.set_aspect("equal")
        for line in range(size + 1):
            ax.axhline(line, color=GRID, linewidth=0.7, zorder=0)
            ax.axvline(line, color=GRID, linewidth=0.7, zorder=0)
        for task in group.task_scores:
            row, column = task.goal
            text = f"{task.normalised_last10:.2f}" if size <= 11 else ""
            name = f"{group.label}, {goal_text(task.goal)}"
            _tile(ax, (column, row), task.normalised_last10, text, Normalize(0, 1), size=6.5, name=name)
        ax.plot(size // 2 + 0.5, size // 2 + 0.5, marker="x", color=MUTED, markersize=7)
        ticks = np.arange(0, size, max(1, size // 9))
        ax.set_xticks(ticks + 0.5, [str(tick) for tick in ticks], fontsize=7.5)
        ax.set_yticks(ticks + 0.5, [str(tick) for tick in ticks], fontsize=7.5)
        ax.set_title(wrap(group.label, 32), fontsize=8.5)
    for ax in axes.flat[len(groups) :]:
        ax.set_visible(False)
    for ax in axes[-1]:
        ax.set_xlabel("column", fontsize=8)
    for ax in axes[:, 0]:
        ax.set_ylabel("row", fontsize=8)
    screen, paper = render(figure, "maps")
    return Drawing(
        "maps",
        f"Where the {study.task_kind} goals lie",
        "The same numbers on the grid; the cross marks the start."
        + (f" The best {MOST_MAPS} of {len(study.scored)} models." if len(study.scored) > MOST_MAPS else ""),
        f"Maps of the {size} by {size} grid with the normalised return at each {study.task_kind} goal. "
        f"{groups[0].label}: "
        + ", ".join(
            f"{task.normalised_last10:.2f} at {goal_text(task.goal)}" for task in groups[0].task_scores
        )
        + ".",
        ("per_task",),
        screen,
        paper,
    )
