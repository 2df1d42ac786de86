"""Does it last?  Returns beyond the episodes that training saw, and by the number of compressions."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes

from cad.config.schema import training_window
from cad.reports.aggregate import LAST_EPISODES, Group, Study
from cad.reports.featured import LEGEND_WIDTH, featured_styles
from cad.reports.results import FloatArray
from cad.reports.style import MUTED, Drawing, LineStyle, new_figure, render, wrap

COLUMNS = ("label", "seed", "compressions", "normalised_return", "episodes")
MOST_GROUPS = 6
_BLOCK = 10  # episodes that one point of a long roll-out averages
_LONG = 100  # episodes from which on blocks are drawn


def compressing(study: Study) -> list[Group]:
    """Groups with a done cell that knows when it compressed."""
    return [
        group
        for group in study.scored
        if group.depth and any(len(cell.by_compressions) > 1 for cell in group.done)
    ]


def rows(study: Study) -> list[tuple[str | int | float, ...]]:
    """Of the table with :data:`COLUMNS`."""
    return [
        (group.label, cell.result.config.seed, *point)
        for group in compressing(study)
        for cell in group.done
        for point in cell.by_compressions
    ]


def window_episodes(group: Group) -> float:
    """Episodes that one training window of a group shows."""
    return training_window(group.config.model) / group.config.env.steps_per_episode


def is_long(study: Study) -> bool:
    """Whether roll-outs go on after as many episodes as a source history has."""
    return any(group.units.shape[2] > group.history for group in study.scored)


def sentence(study: Study) -> str:
    """What becomes of the return after the episodes and the compressions that training saw."""
    lead = study.best(ad=False) or study.best(ad=True)
    if lead is None or lead.score is None:
        return ""
    texts = []
    if is_long(study):
        for group in dict.fromkeys([lead, *study.references]):
            within = group.history_scores
            if within is not None:
                episodes, start = group.units.shape[2], max(1, group.history - LAST_EPISODES + 1)
                texts.append(
                    f"{group.label}: {within.mean():.2f} of the optimum over episodes "
                    f"{start} to {group.history}, where source histories end, {group.scores.mean():.2f} over "
                    f"episodes {episodes - LAST_EPISODES + 1} to {episodes}."
                )
    if lead in compressing(study) and lead.depth:
        points = _mean_by_compressions(lead)
        inside = [value for k, value in points if k <= lead.depth]
        late = points[-max(1, len(points) // 4) :]
        if inside and late[-1][0] > lead.depth:
            texts.append(
                f"Trained with {lead.depth} compression{'' if lead.depth == 1 else 's'} in a row, "
                f"{lead.label} compresses up to {late[-1][0]} times: its return is {inside[-1]:.2f} after "
                f"{lead.depth} and {np.mean([value for _, value in late]):.2f} after {late[0][0]} to "
                f"{late[-1][0]}."
            )
    return " ".join(texts)


def _mean_by_compressions(group: Group) -> list[tuple[int, float]]:
    """Mean over the seeds that got that far."""
    values: dict[int, list[float]] = {}
    for cell in group.done:
        for k, value, _ in cell.by_compressions:
            values.setdefault(k, []).append(value)
    return [(k, float(np.mean(found))) for k, found in sorted(values.items())]


def _blocks(curve: FloatArray, n: int) -> tuple[FloatArray, FloatArray]:
    """Middles of blocks of ``n`` episodes, and means over them; a block that is not whole is left out."""
    whole = len(curve) // n * n
    means: FloatArray = curve[:whole].reshape(-1, n).mean(axis=1)
    middles: FloatArray = np.arange(len(means), dtype=np.float64) * n + (n + 1) / 2
    return middles, means


def draw_lasting(study: Study) -> Drawing | None:
    """Return by episode over all episodes, and by compressions; None where there is neither."""
    if not study.comparable or not study.scored:
        return None
    long = is_long(study)
    folding = [group for group in study.featured(MOST_GROUPS) if group in compressing(study)]
    if not long and not folding:
        return None
    figure = new_figure(4.3)
    panels = [*(["episodes"] if long else []), *(["compressions"] if folding else [])]
    axes = dict(zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True))
    groups = study.featured(MOST_GROUPS) if long else tuple(folding)
    styles = featured_styles(study, groups)
    if long:
        _draw_episodes(axes["episodes"], groups, styles)
    if folding:
        ax = axes["compressions"]
        for group in folding:
            style = styles[group.label]
            ax.plot(*zip(*_mean_by_compressions(group), strict=True), color=style.colour, linewidth=1.2)
            known = dict(_mean_by_compressions(group))
            if group.depth in known:
                ax.plot(group.depth, known[group.depth], style.marker, color=style.colour, markersize=8)
        ax.set_xscale("symlog", linthresh=10)
        ticks = [0, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]
        most = max(k for group in folding for k, _ in _mean_by_compressions(group))
        ticks = [tick for tick in ticks if tick <= most]
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.set_xticks([], minor=True)
        ax.set_xlim(0, most)
        ax.set_xlabel("compressions before the episode")
    for name, ax in axes.items():
        ax.axhline(1.0, color=MUTED, linewidth=1.0, linestyle=(0, (1, 2)))
        ax.set_ylim(
            _lowest(groups) if name == "episodes" else 0,
            max(1.05, *(1.02 * float(group.curve.max()) for group in groups)),
        )
        ax.set_ylabel("return / optimum")
    handles = [
        axes[panels[0]].plot([], [], color=styles[g.label].colour, linestyle=styles[g.label].dash)[0]
        for g in groups
    ]
    figure.legend(handles, [wrap(g.label, LEGEND_WIDTH) for g in groups], loc="outside lower center", ncols=3)
    screen, paper = render(figure, "lasting")
    left = len(study.scored) - len(study.featured(MOST_GROUPS))
    return Drawing(
        "lasting",
        "Beyond what training saw",
        (
            f"Return by episode, means over blocks of {_BLOCK} episodes in long roll-outs; the shaded part "
            "is beyond the end of a source history, which training never saw, and chooses the scale; "
            "triangles: how many episodes one training window shows. "
            if long
            else ""
        )
        + (
            "Return of an episode by the number of compressions before it, means over roll-outs, then tasks, "
            "then seeds; the mark is the depth that training unrolled. Scale: linear to 10, then logarithmic."
            if folding
            else ""
        )
        + (f" References and best models; {left} further are in the CSV files." if left else ""),
        "Line charts of return by episode and by number of compressions. " + sentence(study),
        ("return_by_episode", *(("return_by_compressions",) if folding else ())),
        screen,
        paper,
    )


def _lowest(groups: tuple[Group, ...]) -> float:
    """A lower limit that shows what happens after the history's end; the rise before has its own figure."""
    late = [_blocks(group.curve[group.history :], 10)[1] for group in groups]
    least = min((float(means.min()) for means in late if len(means)), default=0.0)
    return max(0.0, math.floor(10 * least) / 10 - 0.1)


def _draw_episodes(ax: Axes, groups: tuple[Group, ...], styles: dict[str, LineStyle]) -> None:
    n_episodes = max(len(group.curve) for group in groups)
    ax.axvspan(min(group.history for group in groups), n_episodes, color=MUTED, alpha=0.10, linewidth=0)
    for group in groups:
        style = styles[group.label]
        n = _BLOCK if len(group.curve) >= _LONG else 1
        at, curve = _blocks(group.curve, n)
        low, high = (_blocks(end, n)[1] for end in group.band)
        ax.fill_between(at, low, high, color=style.colour, alpha=0.10, linewidth=0)
        ax.plot(at, curve, color=style.colour, linestyle=style.dash, linewidth=1.4)
        ax.plot(window_episodes(group), _lowest(groups), "^", color=style.colour, markersize=6, clip_on=False)
    ax.set_xlim(0, n_episodes)
    ax.set_xlabel("episode in context")
