"""Is compression better than other memories of equal size?"""

from __future__ import annotations

from cad.reports.data import (
    ShownTable,
    Study,
    describe,
    equal_state,
    equal_state_tables,
    interval_cell,
    interval_phrase,
    intervals_over,
    number_cell,
    text_cell,
)
from cad.reports.plotting import (
    INK,
    SMALL,
    SURFACE,
    Drawing,
    Hover,
    line_styles,
    new_figure,
    render,
    wrap,
)
from cad.reports.questions.section import Section

_MOST_IN_WORDS = 5


def sentence(study: Study) -> str:
    """Returns at equal state, and the paired differences."""
    group = equal_state(study)
    if group is None:
        return ""
    parts = []
    for model in group.others[:_MOST_IN_WORDS]:
        text = f"{model.label} {model.score:.2f}"
        difference = group.differences.get(model.label)
        if difference is not None:
            interval = interval_phrase(difference.low, difference.high, len(difference.seeds))
            text += f" (paired, {difference.mean:+.3f}{interval})"
        parts.append(text)
    more = len(group.others) - _MOST_IN_WORDS
    return (
        f"{describe(group.lead)} returns {group.lead.score:.2f}{study.measure.of} with a state of "
        f"{group.lead_bytes / 1024:,.1f} KiB; with as much, {'; '.join(parts)}"
        + (f"; {more} more are in the table." if more > 0 else ".")
    )


def _draw(study: Study) -> Drawing | None:
    """Return with its interval, a row a model; None where no other model has an equal state."""
    group = equal_state(study)
    if group is None:
        return None
    models = sorted((group.lead, *group.others), key=lambda model: model.score or 0.0)
    names = [wrap(model.label, 40) for model in models]
    height = max(0.265, *(0.047 + 0.125 * (name.count("\n") + 1) for name in names))
    styles, hover = line_styles(study), Hover()
    figure = new_figure(0.75 + height * len(models))
    ax = figure.subplots()
    for at, model in enumerate(models):
        (low, high), score = model.returns.score_interval, model.score or 0.0
        colour = styles[model.label].colour
        ax.plot([low, high], [at, at], color=colour, linewidth=1.4)
        ax.plot(model.seed_scores, [at - 0.22] * len(model.seed_scores), "|", color=colour, markersize=5.4)
        ax.plot(
            score, at, styles[model.label].marker, color=colour, markeredgecolor=SURFACE,
            markeredgewidth=0.6, markersize=6,
        )  # fmt: skip
        hover.points(
            ax, [score], [at], name=model.label, x_name=study.measure.name, y_name="state",
            y_words=[f"{group.bytes_of(model) / 1024:,.1f} KiB"],
        )  # fmt: skip
    ax.set_yticks(range(len(models)), names, fontsize=SMALL, color=INK)
    ax.set_ylim(-0.7, len(models) - 0.4)
    if study.measure.bounded:
        ax.set_xlim(0, 1.03)
    ax.set_xlabel(f"{study.measure.name}, last episodes")
    ax.grid(axis="y", visible=False)
    return Drawing(
        "equal-state",
        "Return at equal state",
        "The best compressed model, and all models of other kinds whose roll-outs keep 0.90 to 1.01 times "
        f"as many bytes. Ticks below: single seeds. Lines: 95% intervals over {intervals_over(study)}.",
        f"Dot chart of {study.measure.name} for models of equal state. " + sentence(study),
        ("equal_state",),
        *render(figure, "equal-state", hover),
    )


def _table(study: Study) -> ShownTable | None:
    """Models of equal state; None where there is none."""
    group = equal_state(study)
    if group is None:
        return None
    rows = []
    for model in (group.lead, *group.others):
        difference = group.differences.get(model.label)
        rows.append(
            (
                text_cell(model.label),
                number_cell(group.bytes_of(model), ",.1f", 1 / 1024),
                number_cell(model.score),
                interval_cell(model.returns.score_interval),
                number_cell(None if difference is None else difference.mean, "+.3f"),
                interval_cell((difference.low, difference.high), "+")
                if difference is not None
                else number_cell(None),
                number_cell(len(model.done), ".0f"),
            )
        )
    headers = ("model", "state, KiB a roll-out", study.measure.name, "95% interval",
               f"minus {group.lead.label}", "95% interval of that", "seeds")  # fmt: skip
    return ShownTable(
        "equal-state-table",
        f"Models of equal state; intervals are over {intervals_over(study)}",
        headers,
        rows,
    )


SECTION = Section(
    "equal-state",
    "Is compression better than other memories of equal size?",
    sentences=(sentence,),
    figures=(_draw,),
    shown_tables=(_table,),
    data_tables=(equal_state_tables,),
)
