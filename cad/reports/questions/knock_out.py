"""Does it use what it has compressed?  Roll-outs whose latents are replaced on the way."""

from __future__ import annotations

import numpy as np

from cad.reports.data import (
    BY,
    KnockOut,
    Study,
    interval_phrase,
    knock_out_tables,
    knock_outs,
    plural,
    replaced_curves,
)
from cad.reports.plotting import (
    DASHES,
    DOTTED,
    INK,
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
_AROUND = 20  # episodes before, and three times as many after


def _in_words(item: KnockOut, of: str) -> str:
    span = f"episodes {item.episode} to {item.episode + item.n_after - 1}"
    memory, by = "latents", BY[item.how]
    if item.intact.facts.depth is None:
        memory, by = "state", by.replace("those", "that")
    return (
        f"{item.intact.label} with {by} for its {memory} from episode {item.episode} on returns "
        f"{item.after:.2f}{of} over {span}, intact {item.intact_after:.2f}; paired, "
        f"{item.difference:+.3f}{interval_phrase(item.low, item.high, len(item.seeds))}. Its last episodes "
        f"return {item.last:.2f}, intact {item.intact_last:.2f}."
    )


def sentence(study: Study) -> str:
    """What each model loses, and whether it learns it again."""
    items = knock_outs(study)
    texts = [_in_words(item, study.measure.of) for item in items[:_MOST_IN_WORDS]]
    if len(items) > _MOST_IN_WORDS:
        texts.append(f"{plural(len(items) - _MOST_IN_WORDS, 'more')} in csv/knock_out.csv.")
    return " ".join(texts)


def _draw(study: Study) -> Drawing | None:
    """Return by episode around the replacement, intact and not; None without one."""
    items = knock_outs(study)
    every = replaced_curves(items)
    if not every:
        return None
    shown = every[:_MOST_PANELS]
    rows = -(-len(shown) // 2)
    figure, hover = new_figure(0.4 + 2.5 * rows), Hover()
    names = {"x_name": "episode", "y_name": study.measure.name}
    axes = figure.subplots(rows, min(2, len(shown)), squeeze=False, sharey=True).ravel()
    for ax, curves in zip(axes, shown, strict=False):
        first, label = curves.first, curves.first.intact.label
        low = max(first.intact.returns.demonstrated, first.episode - 1 - _AROUND)
        high = min(first.intact.returns.n_episodes, first.episode - 1 + 3 * _AROUND)
        lines = [("intact", curves.intact, INK, "-")]
        lines += [
            (f"replaced by {BY[item.how]}", curve, PALETTE[list(BY).index(item.how)], DASHES[0])
            for item, curve in curves.replaced
        ]
        episodes = np.arange(low + 1, high + 1)
        for name, curve, colour, dash in lines:
            ax.plot(episodes, curve[low:high], color=colour, linestyle=dash, label=wrap(name, 34))
            hover.points(ax, episodes, curve[low:high], name=f"{label}, {name}", **names)
        ax.axvline(first.episode - 0.5, color=MUTED, linewidth=0.8, linestyle=DOTTED)
        if study.measure.bounded:
            ax.set_ylim(0, 1.05)
        ax.set_title(wrap(label, 44), fontsize=TEXT, fontweight="normal")
        whole_ticks(ax)
        ax.set_xlabel("episode")
        ax.set_ylabel(study.measure.name)
    for ax in axes[len(shown) :]:
        ax.set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return Drawing(
        "knock-out",
        "Memory knocked out",
        "Mean over roll-outs, tasks and the seeds that all curves of a panel have; dotted: where latents, or "
        "the state of a recurrent net, are replaced. Steps that are still uncompressed stay. The same random "
        "numbers are drawn as in the intact roll-outs."
        + no_shared_seed(len(items) - sum(len(curves.replaced) for curves in every))
        + left_out(len(every) - len(shown), f"The first {_MOST_PANELS} models"),
        f"Line charts of {study.measure.name} by episode, intact and with its memory replaced. "
        + sentence(study),
        ("knock_out",),
        *render(figure, "knock-out", hover),
    )


SECTION = Section(
    "knock-out",
    "Does it use what it has compressed?",
    sentences=(sentence,),
    figures=(_draw,),
    data_tables=(knock_out_tables,),
)
