"""Drawings of a roll-out: its path on the grid by episode, as a strip or an animation."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.animation import PillowWriter
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from cad.reports.data import WatchedRollout
from cad.reports.plotting.drawing import render
from cad.reports.plotting.hover import Hover
from cad.reports.plotting.style import (
    DOTTED,
    GRID,
    INK,
    MUTED,
    PALETTE,
    WIDTH,
    drawing_style,
    new_figure,
    wrap,
)

MOST_PANELS = 8  # episodes of a strip
FRAMES_PER_SECOND = 2
_STRIP, _HEAD, _LEGEND, _LEFT, _RIGHT = 2.3, 0.56, 0.235, 0.39, 0.06  # inches
Place = Literal["lower center", "outside lower center"]
_PATH, _COMPRESSION, _PLACE = PALETTE[0], PALETTE[1], PALETTE[2]


def strip_episodes(rollout: WatchedRollout) -> list[int]:
    """Episodes of a strip, from 0: all if they fit, otherwise more at the start, and the first rewarded."""
    n = rollout.n_episodes
    if n <= MOST_PANELS:
        return list(range(n))
    chosen = sorted(set(np.geomspace(1, n, MOST_PANELS).round().astype(int) - 1))
    rewarded = np.flatnonzero(rollout.returns)
    if len(rewarded) and rewarded[0] not in chosen:
        # It replaces its nearest neighbour, but never the first or last episode.
        nearest = min(chosen[1:-1], key=lambda episode: abs(episode - rewarded[0]))
        chosen[chosen.index(nearest)] = rewarded[0]
    return sorted(map(int, chosen))


def draw_strips(rollouts: list[WatchedRollout], hover: Hover) -> Figure:
    """A strip a roll-out, one below the other: maps of some episodes above the return of all."""
    total = _STRIP * len(rollouts) + _LEGEND
    figure = new_figure(total)
    # Placed by hand: automatic layout cannot place maps that keep their shape.
    figure.set_layout_engine("none")
    for i, rollout in enumerate(rollouts):
        _draw_strip(figure, rollout, hover, total - _STRIP * i, total)
    legend(figure, rollouts, "lower center", 6)
    return figure


def _draw_strip(figure: Figure, rollout: WatchedRollout, hover: Hover, top: float, total: float) -> None:
    """Fill the part of a figure ``total`` inches high that begins ``top`` inches above its lower edge."""
    episodes = strip_episodes(rollout)
    pitch = (WIDTH - _LEFT - _RIGHT) / MOST_PANELS
    side = pitch - 0.09

    def axes(left: float, bottom: float, width: float, height: float) -> Axes:
        return figure.add_axes((left / WIDTH, bottom / total, width / WIDTH, height / total))

    title = wrap(rollout.title, 105)
    figure.text(_LEFT / WIDTH, (top - 0.06) / total, title, fontsize=7, weight="bold", va="top")
    for column, episode in enumerate(episodes):
        ax = axes(_LEFT + pitch * column, top - _HEAD - side, side, side)
        draw_episode(ax, rollout, episode)
        text = f"episode {episode + 1}\nreturn {rollout.returns[episode]}"
        ax.set_title(text, fontsize=6.2, loc="center", weight="normal", pad=2.3)
    height = _STRIP - _HEAD - side - 0.21 - 0.35
    ax = axes(_LEFT, top - _STRIP + 0.35, WIDTH - _LEFT - _RIGHT, height)
    draw_returns(ax, rollout, episodes, hover)


def draw_episode(ax: Axes, rollout: WatchedRollout, episode: int) -> None:
    """The path of one episode on the grid, rows downwards."""
    paths, family = rollout.paths, rollout.paths.family
    horizon, size = family.horizon, family.grid_size
    assert size is not None  # others are refused, or not chosen
    part = slice(episode * horizon, (episode + 1) * horizon)
    # (horizon + 1, 2): the last state too.
    states = np.concatenate([paths.states[0, part], paths.after[0, part][-1:]]).astype(float)
    ax.set_xlim(-0.5, size - 0.5)
    ax.set_ylim(size - 0.5, -0.5)
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    rules = np.arange(-0.5, size)
    low, high = np.full_like(rules, -0.5), np.full_like(rules, size - 0.5)
    grid = [*np.stack([[rules, low], [rules, high]]).transpose(2, 0, 1)]
    grid += [*np.stack([[low, rules], [high, rules]]).transpose(2, 0, 1)]
    ax.add_collection(LineCollection(grid, colors=GRID, linewidths=0.39, zorder=0, clip_on=False))
    for name, (row, column) in family.landmarks(paths.task_ids[0]).items():
        box = Rectangle((column - 0.5, row - 0.5), 1, 1, clip_on=False)
        box.set(facecolor=to_rgba(_PLACE, 0.25), edgecolor=_PLACE)
        ax.add_patch(box)
        if name != "goal":
            ax.text(column, row, name[0].upper(), ha="center", va="center", fontsize=5.4, color=INK, zorder=5)
    # Every step is shifted a little to the lower right, so that moves to and fro can be told apart.
    drift = np.linspace(-0.26, 0.26, len(states))
    x, y = states[:, 1] + drift, states[:, 0] + drift
    points = np.stack([x, y], axis=1)
    opacity = np.linspace(0.5, 1, horizon)
    lines = LineCollection(
        list(np.stack([points[:-1], points[1:]], axis=1)),
        colors=[to_rgba(_PATH, alpha) for alpha in opacity],
        linewidths=1,
        capstyle="round",
        zorder=2,
    )
    ax.add_collection(lines)
    ax.plot(x[0], y[0], marker="x", color=MUTED, markersize=3.5, zorder=3)
    ax.plot(x[-1], y[-1], marker="o", color=_PATH, markersize=2.8, zorder=4, clip_on=False)
    for step in rollout.compressed_before(episode):
        # Hollow, because it is often drawn around the start.
        ax.plot(
            x[step],
            y[step],
            marker="D",
            markerfacecolor="none",
            color=_COMPRESSION,
            markersize=5.4,
            zorder=5,
            clip_on=False,
        )


def draw_returns(ax: Axes, rollout: WatchedRollout, shown: list[int], hover: Hover) -> None:
    """Return of every episode as bars (``shown`` ones in full colour), and when it compressed."""
    n, horizon = rollout.n_episodes, rollout.paths.family.horizon
    optimum = rollout.paths.family.optimal_return(rollout.paths.task_ids[0])
    colours = [to_rgba(_PATH, 1 if episode in shown else 0.4) for episode in range(n)]
    ax.bar(np.arange(1, n + 1), rollout.returns, width=0.8, color=colours)
    bars = [(i + 0.6, 0, 0.8, height) for i, height in enumerate(rollout.returns.tolist()) if height]
    words = [(f"{left + 0.4:.0f}", f"{height}") for left, _, _, height in bars]
    hover.boxes(ax, bars, words, x_name="episode", y_name="return")
    ax.axhline(optimum, color=MUTED, linewidth=0.78, linestyle=DOTTED)
    # Above the axes, so that it is not read as a return; episode e covers e - 1/2 to e + 1/2.
    at = [0.5 + step / horizon for step in rollout.compression_steps]
    look: dict[str, Any] = {
        "color": _COMPRESSION,
        "marker": "D",
        "markerfacecolor": "none",
        "linestyle": "none",
    }
    ax.plot(at, [1.07] * len(at), markersize=2.7, clip_on=False, transform=ax.get_xaxis_transform(), **look)
    ax.set_xlim(0.4, n + 0.6)
    ax.set_ylim(0, 1.05 * max(optimum, 1))
    ax.set_xlabel("episode", fontsize=6.6)
    ax.set_ylabel("return", fontsize=6.6)
    ax.tick_params(labelsize=6.2)
    ax.grid(axis="x", visible=False)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    ax.set_yticks([0, optimum])


def legend(figure: Figure, rollouts: list[WatchedRollout], where: Place, columns: int) -> None:
    """Legend of a roll-out's marks."""
    paths = rollouts[0].paths
    none: dict[str, Any] = {"linestyle": "none"}
    entries = [
        (Line2D([], [], color=_PATH, linewidth=1.2), "path, fading in"),
        (Line2D([], [], color=MUTED, marker="x", markersize=3.9, **none), "start"),
        (Line2D([], [], color=_PATH, marker="o", markersize=3.1, **none), "end"),
        (
            Line2D(
                [],
                [],
                color=_PLACE,
                marker="s",
                markersize=5.4,
                markerfacecolor=to_rgba(_PLACE, 0.25),
                **none,
            ),
            " and ".join(
                dict.fromkeys(name.split()[0] for name in paths.family.landmarks(paths.task_ids[0]))
            ),
        ),
        (Line2D([], [], color=MUTED, linewidth=0.78, linestyle=DOTTED), "optimum"),
    ]
    if any(rollout.compression_steps for rollout in rollouts):
        entries.insert(
            4,
            (
                Line2D(
                    [], [], color=_COMPRESSION, marker="D", markerfacecolor="none", markersize=3.9, **none
                ),
                "compression",
            ),
        )
    handles, labels = zip(*entries, strict=True)
    figure.legend(
        handles,
        labels,
        loc=where,
        ncols=min(columns, len(labels)),
        labelcolor=INK,
    )


def strip_png(rollout: WatchedRollout) -> bytes:
    """A strip as PNG; equal roll-outs give equal bytes."""
    with drawing_style():
        hover = Hover()
        _, printed = render(draw_strips([rollout], hover), "rollout", hover)
    assert printed is not None
    return printed.png


def animation_gif(rollout: WatchedRollout) -> bytes:
    """An animated GIF, a frame an episode; equal roll-outs give equal bytes."""
    with drawing_style(), tempfile.TemporaryDirectory() as folder:
        figure = new_figure(3.6, 3.25)
        figure.set_facecolor("white")
        figure.suptitle(wrap(rollout.title, 52), fontsize=6.6, x=0.02, ha="left")
        above, below = figure.subplots(2, 1, height_ratios=[3, 1])
        legend(figure, [rollout], "outside lower center", 3)
        writer = PillowWriter(fps=FRAMES_PER_SECOND)
        path = Path(folder) / "rollout.gif"
        with writer.saving(figure, str(path), dpi=130):
            for episode in range(rollout.n_episodes):
                above.clear()
                below.clear()
                draw_episode(above, rollout, episode)
                text = f"episode {episode + 1} of {rollout.n_episodes}: return {rollout.returns[episode]}"
                above.set_title(text, fontsize=7, loc="center")
                draw_returns(below, rollout, [episode], Hover())
                writer.grab_frame()
        return path.read_bytes()
