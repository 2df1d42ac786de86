"""How far does a memory reach?  Return in environments unlike training's, such as longer corridors."""

from __future__ import annotations

from collections.abc import Sequence

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
    held, last = reach.holds_to(_SHARE), reach.points[-1]
    if held == len(reach.points):
        return f"{reach.name}: up to the largest, {last.value:,} ({last.model.score:.2f})"
    below = reach.points[held]
    value = f"({below.model.score:.2f} {below.words})"
    if not held:
        return f"{reach.name}: not even at the smallest {value}"
    reached = reach.points[held - 1]
    return f"{reach.name}: {'as trained alone' if reached.mixed else f'up to {reached.value:,}'} {value}"


def _all_in_words(reach: Reach) -> str:
    returns = (f"{point.model.score:.2f} {point.words}" for point in reach.points)
    return f"{reach.name}: " + ", ".join(returns)


def _by_setting(curves: Sequence[Reach]) -> dict[str, list[Reach]]:
    groups: dict[str, list[Reach]] = {}
    for reach in curves:
        groups.setdefault(reach.setting, []).append(reach)
    return groups


def sentence(study: Study) -> str:
    """Up to which value each model stays close to the optimum; of returns as they are, the returns."""
    texts = []
    for setting, every in _by_setting(reaches(study)).items():
        curves = every[:_MOST_CURVES]
        trained = " and ".join(dict.fromkeys(reach.trained_at for reach in curves))
        seeds = min(len(point.model.done) for reach in curves for point in reach.points)
        what, words = f"Return at or above {_SHARE}{study.measure.of}", _in_words
        if not study.measure.unit:
            what, words = "Return", _all_in_words
        texts.append(
            f"{what}, by {setting} (training had {trained}): {'; '.join(map(words, curves))}. The same "
            f"trained models at all values, on {plural(seeds, 'seed')} at least."
        )
    return " ".join(texts)


def _draw(study: Study) -> Drawing | None:
    """Return by the value of the setting, a curve a model; None where none differs in roll-outs."""
    every = reaches(study)
    if not every:
        return None
    # One axis has one setting: that of most models.
    setting, group = max(_by_setting(every).items(), key=lambda item: len(item[1]))
    curves = group[:_MOST_CURVES]
    figure, hover = new_figure(3.3), Hover()
    ax = figure.subplots()
    for i, reach in enumerate(curves):
        x = [point.value for point in reach.points]
        y = [point.model.score or 0.0 for point in reach.points]
        colour, dash = PALETTE[i % len(PALETTE)], DASHES[i // len(PALETTE) % len(DASHES)]
        ax.plot(
            x, y, color=colour, linestyle=dash, marker=MARKERS[i % len(MARKERS)],
            label=wrap(reach.name, LEGEND_WIDTH),
        )  # fmt: skip
        for point in reach.points:
            low, high = map(finite, point.model.returns.score_interval)
            if low is not None and high is not None:
                ax.plot([point.value, point.value], [low, high], color=colour, linewidth=0.8)
        hover.points(
            ax, x, y, name=reach.name, x_name=setting, y_name=study.measure.name,
            x_words=[point.words.removeprefix("at ") for point in reach.points],
        )  # fmt: skip
        ax.axvline(reach.own_value, color=MUTED, linewidth=0.8, linestyle=":")
    ax.set_xscale("log")
    # Numbers as they are: matplotlib's own labels are formulas, which figures do not show.
    ticks = sorted({float(point.value) for reach in curves for point in reach.points})
    if len(ticks) <= _MOST_TICKS:
        ax.set_xticks(ticks, [f"{tick:,.10g}" for tick in ticks])
    else:
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    if study.measure.bounded:
        ax.set_ylim(0, 1.04)
    ax.set_xlabel(f"{setting} in roll-outs (dotted: in training)")
    ax.set_ylabel(f"{study.measure.name}, last episodes")
    figure.legend(loc="outside lower center", ncols=3)
    mixed = any(point.mixed for reach in curves for point in reach.points)
    return Drawing(
        "reach",
        f"Return by {setting}",
        f"Trained models in environments unlike training's: {study.measure.name} in the last episodes, "
        f"mean over roll-outs, tasks and seeds; lines: 95% intervals over {intervals_over(study)}."
        + (" On the dotted line: as trained, with lower values among the episodes." if mixed else "")
        + left_out(len(every) - len(curves), f"The first {_MOST_CURVES} curves by {setting}"),
        f"Line chart of {study.measure.name} by {setting}. " + sentence(study),
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
