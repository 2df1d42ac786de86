"""What do the experiments share?  Models that several experiments have under one name."""

from __future__ import annotations

from collections.abc import Sequence

from cad.reports.data import (
    SharedModel,
    ShownTable,
    Study,
    experiments,
    interval_cell,
    interval_text,
    intervals_over,
    number_cell,
    one_seed,
    plural,
    shared_model_tables,
    shared_models,
    text_cell,
    unclaimed,
)
from cad.reports.plotting import MUTED, PALETTE, SMALL, Drawing, Hover, new_figure, render, wrap
from cad.reports.questions.section import Section, left_out

_MOST_ROWS = 30


def sentence(study: Study) -> str:
    """What the experiments share, and where they are furthest apart."""
    names, shared = experiments(study), shared_models(study)
    if not names:
        return ""
    text = f"{' and '.join(names)} share {plural(len(shared), 'model')} by name"
    paired = [entry for entries in shared.values() for entry in entries if entry.difference is not None]
    if not paired:
        return text + "."
    furthest = max(paired, key=lambda entry: abs(entry.difference or 0.0))
    if not furthest.difference:
        return f"{text}, with equal returns wherever they share seeds."
    ends = (
        f", 95% interval {furthest.low:+.3f} to {furthest.high:+.3f}"
        if furthest.low is not None and furthest.high is not None
        else ""
    )
    reason = unclaimed(furthest.n_shared_seeds, len(furthest.model.task_scores))
    return (
        f"{text}; furthest apart is {furthest.label}: {furthest.difference:+.3f} in {furthest.experiment} "
        f"against {furthest.minus} ({plural(furthest.n_shared_seeds, 'shared seed')}{ends})"
        + (f"; {reason}." if reason else ".")
    )


def _draw(study: Study) -> Drawing | None:
    """A row a shared model, a mark an experiment; None where none is shared."""
    every = shared_models(study)
    shared = dict(list(every.items())[:_MOST_ROWS])
    if not shared:
        return None
    names = experiments(study)
    figure, hover = new_figure(1.0 + 0.33 * len(shared)), Hover()
    ax = figure.subplots()
    for row, entries in enumerate(shared.values()):
        at = len(shared) - 1 - row
        scores = [entry.model.score or 0.0 for entry in entries]
        ax.plot(scores, [at] * len(scores), color=MUTED, linewidth=0.8, zorder=1)
        for score, entry in zip(scores, entries, strict=True):
            k = names.index(entry.experiment)
            height = at + 0.16 * ((len(names) - 1) / 2 - k)
            low, high = entry.model.returns.score_interval
            colour = PALETTE[k % len(PALETTE)]
            ax.plot((low, high), [height] * 2, color=colour, linewidth=1.25)
            ax.plot(
                [score], [height], "osD^vP"[k % 6], color=colour, markersize=5.4,
                label=None if row else wrap(entry.experiment, 40),
            )  # fmt: skip
            hover.points(
                ax, [score], [height], name=f"{entry.experiment}: {entry.label}", x_name=study.measure.name,
                y_name=f"95% interval{one_seed(len(entry.model.done))}",
                y_words=[interval_text(low, high)],
            )  # fmt: skip
    ax.set_yticks(range(len(shared)), [wrap(label, 40) for label in reversed(shared)], fontsize=SMALL)
    ax.set_ylim(-0.6, len(shared) - 0.4)
    ax.set_xlabel(f"{study.measure.name}, last episodes")
    ax.grid(axis="y", visible=False)
    figure.legend(loc="outside lower center", ncols=min(4, len(names)))
    return Drawing(
        "side_by_side",
        "The same models in each experiment",
        "Models with one name in several experiments; the table at the end shows which of their settings "
        f"differ. Lines: 95% bootstrap intervals over {intervals_over(study)}."
        + left_out(len(every) - len(shared), f"The first {_MOST_ROWS} models"),
        "Dot chart of return by model and experiment. " + sentence(study),
        ("side_by_side",),
        *render(figure, "side_by_side", hover),
    )


def _counts(entries: Sequence[SharedModel]) -> list[int]:
    """Seeds that the intervals of some entries rest on: each one's own, and those of its difference."""
    paired = [entry.n_shared_seeds for entry in entries if entry.difference is not None]
    return [*(len(entry.model.done) for entry in entries), *paired]


def _table(study: Study) -> ShownTable | None:
    """Models that several experiments share; None where none is."""
    rows = [
        (
            text_cell(entry.label),
            text_cell(entry.experiment),
            number_cell(entry.model.score),
            interval_cell(entry.model.returns.score_interval),
            number_cell(len(entry.model.done), ".0f"),
            *(number_cell(value, "+.3f") for value in (entry.difference, entry.low, entry.high)),
        )
        for entries in shared_models(study).values()
        for entry in entries
    ]
    counts = [count for entries in shared_models(study).values() for count in _counts(entries)]
    headers = ("model", "experiment", study.measure.name, "95% interval", "seeds", "minus the first",
               "95% interval, low", "high")  # fmt: skip
    caption = (
        "Models that several experiments share, paired on the seeds and tasks that both have; intervals are "
        f"over {intervals_over(study, counts)}"
    )
    return ShownTable("side-by-side-table", caption, headers, rows) if rows else None


SECTION = Section(
    "side-by-side",
    "What do the experiments share?",
    sentences=(sentence,),
    figures=(_draw,),
    shown_tables=(_table,),
    data_tables=(shared_model_tables,),
)
