"""Does it fail to find the facts, or to remember them?  Roll-outs whose first episodes are demonstrated."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cad.config.words import setting_in_words
from cad.reports.data import (
    FEWEST_EPISODES,
    Demonstration,
    Study,
    by_plain,
    curves_with,
    demonstration_tables,
    demonstrations,
    interval_phrase,
    last_episodes,
    plural,
    recall_after,
)
from cad.reports.plotting import (
    DOTTED,
    INK,
    MARKERS,
    MUTED,
    PALETTE,
    TEXT,
    Drawing,
    Hover,
    new_figure,
    render,
    whole_ticks,
    wrap,
)
from cad.reports.questions.section import Section, left_out, no_shared_seed

_MOST_IN_WORDS = 3
_MOST_PANELS = 4
_WITHOUT = "no demonstration"
_MISSING = {
    "memory": "Even right after the demonstration it makes up for less than half of what it lacks without "
    "one: memory is missing (facts are not kept, or not read), and better exploration alone would not help.",
    "exploration": "To the end it makes up for more than half of what it lacks without one: exploration is "
    "missing (facts are not found), as it keeps what it was shown.",
    "lasting memory": "Right after the demonstration it makes up for more than half of what it lacks without "
    "one, at the end for less: it reads what it was shown and loses it, so that lasting memory is missing.",
    "unclear": "The intervals do not tell whether memory or exploration is missing.",
}


def _first(count: int) -> str:
    return "the first episode" if count == 1 else f"the first {count} episodes"


def _last(count: int) -> str:
    return "the last one" if count == 1 else f"the last {count}"


def _model(label: str) -> str:
    """A plain model's label without what a grid of demonstrations adds to it."""
    return label.replace(f", {setting_in_words('evaluation.demonstrated_episodes', 0)}", "")


def _in_words(item: Demonstration, of: str) -> str:
    n = item.model.returns.n_episodes
    start, end, n_seeds = item.shown + 1, item.shown + item.n_after, len(item.seeds)
    span = f"episode {start}" if end == start else f"episodes {start} to {end}"
    now, late = (
        f"{gain.mean:+.3f}{interval_phrase(gain.low, gain.high, n_seeds)}"
        for gain in (item.after_gain, item.last_gain)
    )
    text = (
        f"Shown what is optimal in {_first(item.shown)}, {_model(item.plain.label)} returns "
        f"{item.after:.2f}{of} over {span} and {item.last:.2f} over {_last(last_episodes(n - item.shown))}; "
        f"without, {item.plain_last:.2f} over {_last(last_episodes(n))} (paired, {now} and {late})."
    )
    if item.needed is not None and item.needed < 1:
        text += f" Of {span}, {item.needed:.0%} need a fact that was shown"
        text += "." if item.after_needed is None else f", and return {item.after_needed:.2f}."
    return " ".join(filter(None, (text, _MISSING.get(item.missing, ""))))


def sentence(study: Study) -> str:
    """What each model returns after it was shown the facts, and what is missing then."""
    items = demonstrations(study)
    texts = [_in_words(item, study.measure.of) for item in items[:_MOST_IN_WORDS]]
    if len(items) > _MOST_IN_WORDS:
        texts.append(f"{plural(len(items) - _MOST_IN_WORDS, 'more')} in csv/demonstration.csv.")
    return " ".join(texts)


def _name(shown: int) -> str:
    return f"{_first(shown)} demonstrated" if shown else _WITHOUT


def _places(study: Study) -> dict[int, int]:
    """A place for each number of demonstrated episodes, the same in all panels; 0 for none."""
    counts = sorted({item.shown for item in demonstrations(study)})
    return {count: place for place, count in enumerate([0, *counts])}


def _colour(place: int) -> str:
    return PALETTE[(place - 1) % len(PALETTE)] if place else INK


def _panels(n: int) -> tuple[Figure, list[Axes]]:
    """A figure with axes for ``n`` models."""
    rows = -(-n // 2)
    figure = new_figure(0.4 + 2.5 * rows)
    axes = figure.subplots(rows, min(2, n), squeeze=False, sharey=True).ravel()
    for ax in axes[n:]:
        ax.set_visible(False)
    return figure, list(axes[:n])


def _label(ax: Axes, study: Study, label: str, x_name: str) -> None:
    if study.measure.bounded:
        ax.set_ylim(0, 1.05)
    ax.set_title(wrap(label, 44), fontsize=TEXT, fontweight="normal")
    ax.set_xlabel(x_name)
    ax.set_ylabel(study.measure.name)


def _legend(figure: Figure, lines: Iterable[tuple[str, Line2D]]) -> None:
    by_name = dict(lines)
    names = [wrap(name, 40) for name in by_name]
    figure.legend(list(by_name.values()), names, loc="outside lower center", ncols=3)


def _draw(study: Study) -> Drawing | None:
    """Return by episode, with a demonstration and without; None where nothing was demonstrated."""
    groups = by_plain(demonstrations(study))
    if not groups:
        return None
    drawn = list(groups.items())[:_MOST_PANELS]
    (figure, axes), hover, legend = _panels(len(drawn)), Hover(), []
    names, places = {"x_name": "episode", "y_name": study.measure.name}, _places(study)
    for ax, (plain, items) in zip(axes, drawn, strict=True):
        label = _model(plain)
        for shown, curve in curves_with(items):
            colour, name = _colour(places[shown]), _name(shown)
            episodes = np.arange(1, len(curve) + 1)
            watched, own = slice(shown), slice(shown, None)
            if shown:
                to = slice(shown + 1)  # where the model's own begin
                ax.plot(episodes[to], curve[to], color=colour, linestyle=DOTTED)
                hover.points(ax, episodes[watched], curve[watched], name=f"{label}, demonstrated", **names)
                ax.axvline(shown + 0.5, color=MUTED, linewidth=0.8, linestyle=DOTTED)
            (line,) = ax.plot(episodes[own], curve[own], color=colour)
            legend.append((name, line))
            hover.points(ax, episodes[own], curve[own], name=f"{label}, {name}", **names)
        _label(ax, study, label, "episode")
        whole_ticks(ax)
    _legend(figure, legend)
    return Drawing(
        "demonstration",
        "Shown the facts first",
        "Mean over roll-outs, tasks and the seeds that all curves of a panel have. Dotted curve: demonstrated"
        " episodes, in which optimal actions are taken and the model watches; dotted vertical line: where it "
        "begins to act. Each step has the same random numbers as without a demonstration."
        + no_shared_seed(sum(len(items) + 1 - len(curves_with(items)) for items in groups.values()))
        + left_out(len(groups) - len(drawn), f"The first {_MOST_PANELS} models"),
        f"Line charts of {study.measure.name} by episode, with the first episodes demonstrated and without. "
        + sentence(study),
        ("demonstration", "demonstration_by_episode"),
        *render(figure, "demonstration", hover),
    )


def _draw_recall(study: Study) -> Drawing | None:
    """Return by age of the fact, with a demonstration and without; None where tasks have one fact."""
    groups = by_plain(demonstrations(study)).items()
    made = {label: lines for label, items in groups if (lines := recall_after(items))}
    if not made:
        return None
    drawn = list(made.items())[:_MOST_PANELS]
    (figure, axes), hover, legend = _panels(len(drawn)), Hover(), []
    x_name, places = "episodes since the fact was last needed", _places(study)
    for ax, (plain, lines) in zip(axes, drawn, strict=True):
        label = _model(plain)
        ages = sorted({item.low: item.ages for *_, recalls in lines for item in recalls}.items())
        ticks = {low: tick for tick, (low, _) in enumerate(ages)}
        for shown, _, recalls in lines:
            place = places[shown]
            x, y = [ticks[item.low] for item in recalls], [item.mean for item in recalls]
            (line,) = ax.plot(x, y, color=_colour(place), marker=MARKERS[place % len(MARKERS)])
            legend.append((_name(shown), line))
            hover.points(
                ax, x, y, name=f"{label}, {_name(shown)}", x_name=x_name, y_name=study.measure.name,
                x_words=[item.ages for item in recalls],
                notes=[f"({item.episodes:,} episodes)" for item in recalls],
            )  # fmt: skip
        ax.set_xticks(range(len(ages)), [words for _, words in ages])
        _label(ax, study, label, x_name)
    _legend(figure, legend)
    return Drawing(
        "demonstration-recall",
        "Return by age of the fact, shown and not",
        "Return over the optimum of the episode by the number of episodes since its fact was last needed, "
        "demonstrated or not; over the second half of the roll-outs' episodes, or those after the longest "
        f"demonstration where that is later. Ages that fewer than {FEWEST_EPISODES} episodes have are left "
        "out." + left_out(len(made) - len(drawn), f"The first {_MOST_PANELS} models"),
        "Line charts of return over optimum by age of the fact, with a demonstration and without.",
        ("demonstration_recall",),
        *render(figure, "demonstration-recall", hover),
    )


SECTION = Section(
    "demonstration",
    "Does it fail to find the facts, or to remember them?",
    sentences=(sentence,),
    figures=(_draw, _draw_recall),
    data_tables=(demonstration_tables,),
)
