"""How far does a memory reach?  Return in environments unlike training's, such as longer corridors."""

from __future__ import annotations

from matplotlib.ticker import NullFormatter, StrMethodFormatter

from cad.reports.data import Reach, Study, finite, intervals_over, plural, reach_tables, reaches
from cad.reports.plotting import (
    DASHES,
    LEGEND_WIDTH,
    MARKERS,
    MUTED,
    PALETTE,
    Drawing,
    Hover,
    new_figure,
    render,
    wrap,
)
from cad.reports.questions.section import Section, left_out

_MOST_CURVES, _MOST_TICKS = 8, 8
_SHARE = 0.95


def _in_words(reach: Reach) -> str:
    held, (last, model) = reach.holds_to(_SHARE), reach.points[-1]
    if held is None:
        first, shortest = reach.points[0]
        return f"{reach.name}: below it everywhere ({shortest.score:.2f} at {first:,})"
    if held == last:
        return f"{reach.name}: up to the largest, {last:,} ({model.score:.2f})"
    value, below = next(point for point in reach.points if point[0] > held)
    return f"{reach.name}: up to {held:,} ({below.score:.2f} at {value:,})"


def _all_in_words(reach: Reach) -> str:
    return f"{reach.name}: " + ", ".join(f"{model.score:.2f} at {value:,}" for value, model in reach.points)


def sentence(study: Study) -> str:
    """Up to which value each model stays close to the optimum; of returns as they are, the returns."""
    curves = reaches(study)
    if not curves:
        return ""
    trained = " and ".join(f"{value:,}" for value in sorted({reach.trained_at for reach in curves}))
    seeds = min(len(model.done) for reach in curves for _, model in reach.points)
    what, words = f"Return at or above {_SHARE}{study.measure.of}", _in_words
    if not study.measure.unit:
        what, words = "Return", _all_in_words
    return (
        f"{what}, by {curves[0].setting} (training had {trained}): "
        f"{'; '.join(map(words, curves[:_MOST_CURVES]))}. The same trained models at all values, on "
        f"{plural(seeds, 'seed')} at least."
    )


def _draw(study: Study) -> Drawing | None:
    """Return by the value of the setting, a curve a model; None where none differs in roll-outs."""
    every = reaches(study)
    curves = every[:_MOST_CURVES]
    if not curves:
        return None
    figure, hover = new_figure(3.3), Hover()
    ax = figure.subplots()
    for i, reach in enumerate(curves):
        x, y = [value for value, _ in reach.points], [model.score or 0.0 for _, model in reach.points]
        colour, dash = PALETTE[i % len(PALETTE)], DASHES[i // len(PALETTE) % len(DASHES)]
        ax.plot(
            x, y, color=colour, linestyle=dash, marker=MARKERS[i % len(MARKERS)],
            label=wrap(reach.name, LEGEND_WIDTH),
        )  # fmt: skip
        for value, model in reach.points:
            low, high = map(finite, model.returns.score_interval)
            if low is not None and high is not None:
                ax.plot([value, value], [low, high], color=colour, linewidth=0.8)
        hover.points(ax, x, y, name=reach.name, x_name=reach.setting, y_name=study.measure.name)
    for value in {reach.trained_at for reach in curves}:
        ax.axvline(value, color=MUTED, linewidth=0.8, linestyle=":")
    ax.set_xscale("log")
    # Numbers as they are: matplotlib's own labels are formulas, which figures do not show.
    ticks = sorted({float(value) for reach in curves for value, _ in reach.points})
    if len(ticks) <= _MOST_TICKS:
        ax.set_xticks(ticks, [f"{tick:,.10g}" for tick in ticks])
    else:
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    if study.measure.bounded:
        ax.set_ylim(0, 1.04)
    ax.set_xlabel(f"{curves[0].setting} in roll-outs (dotted: in training)")
    ax.set_ylabel(f"{study.measure.name}, last episodes")
    figure.legend(loc="outside lower center", ncols=3)
    return Drawing(
        "reach",
        f"Return by {curves[0].setting}",
        f"Trained models in environments unlike training's: {study.measure.name} in the last episodes, "
        f"mean over roll-outs, tasks and seeds; lines: 95% intervals over {intervals_over(study)}."
        + left_out(len(every) - len(curves), f"The first {_MOST_CURVES} curves"),
        f"Line chart of {study.measure.name} by {curves[0].setting}. " + sentence(study),
        ("reach",),
        *render(figure, "reach", hover),
    )


SECTION = Section(
    "reach",
    "How far does a memory reach?",
    sentences=(sentence,),
    figures=(_draw,),
    data_tables=(reach_tables,),
)
