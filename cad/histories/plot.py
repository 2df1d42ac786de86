"""Learning curves of the source agents, as a picture."""

from __future__ import annotations

from pathlib import Path

import matplotlib.style
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cad.envs.registry import task_family
from cad.histories.episodes import whole_episodes
from cad.histories.file import open_histories
from cad.storage import atomic_path

_SHOWN_TASKS = 6
# Okabe and Ito's colours: told apart with any colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


@matplotlib.style.context("default")  # whatever a user's matplotlibrc says
def plot_histories(path: Path, out_png: Path) -> None:
    """Write :func:`histories_figure` as a PNG; the same histories give the same bytes."""
    figure = histories_figure(path)
    with atomic_path(out_png) as temporary:
        FigureCanvasAgg(figure)
        # No date or version inside.
        figure.savefig(temporary, format="png", dpi=130, metadata={"Software": None})


def histories_figure(path: Path) -> Figure:
    """Draw return by episode: single tasks on the left, scores of all tasks on the right.

    Returns are means over streams.  The single tasks are spread evenly over the tasks' optima.  Where no
    optimum is known, neither drawn nor stated is one: all returns are as they are.
    """
    with open_histories(path) as histories:
        family = task_family(histories.provenance.env)
        whole = family.best_in_words
        optima = {task: family.optimal_return(task) for task in histories.task_ids}
        curves: dict[int, npt.NDArray[np.float64]] = {}
        for task in histories.task_ids:
            ends = histories.dataset(task, "episode_ends")
            curves[task] = whole_episodes(histories.dataset(task, "rewards"), ends).mean(axis=0)
    n = min(map(len, curves.values()))  # episodes that all tasks have
    curves = {task: curve[:n] for task, curve in curves.items()}
    by_optimum = sorted(curves, key=lambda task: (optima[task], task))
    places = np.linspace(0, len(by_optimum) - 1, min(_SHOWN_TASKS, len(by_optimum)))
    shown = [by_optimum[int(place)] for place in places]
    episodes = np.arange(1, len(curves[shown[0]]) + 1)

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    single, everything = figure.subplots(1, 2)
    for task, colour in zip(shown, _COLOURS, strict=False):
        label = family.short_name(task)
        best = f", {whole} {optima[task]:g}" if whole else ""
        single.plot(episodes, curves[task], color=colour, label=f"{label}{best}")
        if whole:
            single.axhline(optima[task], color=colour, linewidth=0.8, linestyle=":")
    dotted = f" (dotted: {whole})" if whole else ""
    single.set(title=f"Single tasks{dotted}", ylabel="return, mean over streams")
    single.legend(fontsize="small")

    scored = [task for task in curves if optima[task] > family.random_return]
    shares = np.array([family.score(curves[task], optima[task]) for task in scored or curves])
    low, high = np.quantile(shares, [0.1, 0.9], axis=0)
    everything.fill_between(episodes, low, high, color=_COLOURS[0], alpha=0.2, label="middle 80 % of tasks")
    everything.plot(episodes, shares.mean(axis=0), color=_COLOURS[0], label=f"mean of {len(shares)} tasks")
    if whole:
        everything.axhline(1.0, color="0.4", linewidth=0.8, linestyle=":", label=whole)
        everything.set_ylim(top=max(1.05, 1.05 * float(high.max())))
    everything.set(title="All tasks", ylabel=f"return / {whole}" if whole else "return")
    everything.legend(fontsize="small", loc="lower right")
    for axes in (single, everything):
        axes.set_xlabel("episode")
        axes.set_xlim(1, max(2, len(episodes)))
        axes.set_ylim(bottom=min(0.0, 1.05 * axes.dataLim.ymin))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
    return figure
