"""Is it better than the reference?  Paired differences on the same seeds and tasks."""

from __future__ import annotations

import numpy as np

from cad.reports.data import (
    FEW_SEEDS,
    Difference,
    ModelResult,
    Shown,
    ShownTable,
    Study,
    all_differences,
    difference_tables,
    interval_cell,
    interval_text,
    intervals_over,
    number_cell,
    one_seed,
    text_cell,
    unclaimed,
)
from cad.reports.plotting import (
    INK,
    MUTED,
    SMALL,
    SURFACE,
    TEXT,
    Drawing,
    Hover,
    line_styles,
    new_figure,
    render,
    wrap,
)
from cad.reports.questions.section import Section, left_out

_MOST_ROWS = 30


def _by_reference(study: Study) -> list[tuple[ModelResult, list[Difference]]]:
    """Each reference with the differences from it, without references that nothing is paired with."""
    grouped = [(ref, [d for d in all_differences(study) if d.reference is ref]) for ref in study.references]
    return [(reference, differences) for reference, differences in grouped if differences]


def _in_words(difference: Difference) -> str:
    d = difference
    size = f"{abs(d.mean):.3f}"
    if float(size) == 0:
        text = f"{d.model.label} is as high, to three digits"
    else:
        text = f"{d.model.label} is {'above' if d.mean > 0 else 'below'} it by {size}"
    if np.isfinite(d.low):
        text += f" (95% interval {interval_text(d.low, d.high, '+')})"
    if d.p_holm is not None:
        return text + f" (p = {d.p_holm:.2g}, corrected for all comparisons)"
    if len(d.seeds) > 1:
        higher, equal = (sum(value > 0 for value in d.by_seed), sum(value == 0 for value in d.by_seed))
        text += f", in {higher} of {len(d.seeds)} seeds above" + (f" and in {equal} equal" if equal else "")
    return f"{text}; {unclaimed(len(d.seeds), len(d.model.task_scores))}"


def sentence(study: Study) -> str:
    """What differs from each reference, and whether a difference is claimed."""
    texts = []
    for reference, differences in _by_reference(study):
        most = max(len(d.model.cells) for d in differences)
        shown = [d for d in differences if len(d.model.cells) == most and not d.model.facts.is_ad]
        largest = max(shown, key=lambda d: d.mean, default=differences[0])
        text = f"Paired with {reference.label} on the same seeds and tasks, {_in_words(largest)}"
        tested = [d for d in differences if d.p_holm is not None]
        if not tested:
            text += "."
        else:
            above = sum(d.claimed and d.mean > 0 for d in tested)
            below = sum(d.claimed and d.mean < 0 for d in tested)
            text += f"; of {len(tested)} models {above} are above it and {below} below it at the 5% level"
            text += f", {len(tested) - above - below} cannot be told from it."
        texts.append(text)
    return " ".join(texts)


def _draw(study: Study) -> Drawing | None:
    """A row a model, a panel a reference; None without a reference or another model."""
    by_reference = _by_reference(study)
    if not by_reference:
        return None
    order = sorted({d.model.label: d.mean for d in by_reference[0][1]}.items(), key=lambda item: item[1])
    labels = [label for label, _ in order][-_MOST_ROWS:]
    labels += [d.model.label for _, ds in by_reference[1:] for d in ds if d.model.label not in dict(order)]
    rows = {label: i for i, label in enumerate(labels)}
    styles = line_styles(study)
    wrapped = [wrap(label, 40) for label in labels]
    row_height = max(0.265, *(0.047 + 0.125 * (text.count("\n") + 1) for text in wrapped))
    figure, hover = new_figure(0.93 + row_height * len(labels)), Hover()
    axes = figure.subplots(1, len(by_reference), sharey=True, squeeze=False)[0]
    for ax, (reference, differences) in zip(axes, by_reference, strict=True):
        ax.axvline(0, color=MUTED, linewidth=0.8)
        for d in differences:
            if d.model.label not in rows:
                continue
            at, colour = rows[d.model.label], styles[d.model.label].colour
            ax.plot([d.low, d.high], [at, at], color=colour, linewidth=1.4)
            if 1 < len(d.seeds) <= FEW_SEEDS:
                ax.plot(d.by_seed, [at - 0.22] * len(d.by_seed), "|", color=colour, markersize=5.4)
            ax.plot(
                d.mean, at, "o", markersize=5.4, color=colour if d.claimed or d.p_holm is None else SURFACE,
                markeredgecolor=colour, markeredgewidth=1.1,
            )  # fmt: skip
            hover.points(
                ax, [d.mean], [at], name=f"{d.model.label} minus {reference.label}", x_name="difference",
                y_name=f"95% interval{one_seed(len(d.seeds))}", y_words=[interval_text(d.low, d.high, "+")],
            )  # fmt: skip
        title = wrap(f"minus {reference.label}", 66 // len(by_reference))
        ax.set_title(title, fontsize=TEXT, fontweight="normal")
        ax.set_xlabel(f"difference in {study.measure.name}")
        ax.set_ylim(-0.7, len(labels) - 0.4)
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(labels)), wrapped, fontsize=SMALL, color=INK)
    few = all(d.p_holm is None for _, differences in by_reference for d in differences)
    tasks = len(study.scored[0].task_scores)
    return Drawing(
        "differences",
        "Paired differences",
        f"{study.measure.noun.capitalize()} over the last episodes minus the reference's, on the seeds and "
        "tasks that both have. "
        + (
            ""
            if tasks < 2
            else f"Lines: 95% intervals of a joint bootstrap over {_intervals_over(study)}. "
            + ("Ticks below: single seeds. " if any(len(d.seeds) > 1 for d in all_differences(study)) else "")
        )
        + (
            "One task: there are no intervals, and no significance is claimed."
            if tasks < 2
            else "No significance is claimed with three seeds or fewer."
            if few
            else "Filled: differs at the 5% level after Holm's correction for all models in the panel."
        )
        + left_out(len(order) - len(labels), f"The {_MOST_ROWS} highest"),
        "Dot chart of paired differences with intervals. " + sentence(study),
        ("differences",),
        *render(figure, "differences", hover),
    )


def _intervals_over(study: Study) -> str:
    return intervals_over(study, [len(d.seeds) for d in all_differences(study)])


def _table(study: Study) -> ShownTable | None:
    """Models minus references; None where there is nothing to compare."""
    rows = [
        (
            text_cell(d.model.label),
            text_cell(d.reference.label),
            number_cell(d.mean, "+.3f"),
            interval_cell((d.low, d.high), "+"),
            Shown("no test", None) if d.p_holm is None else number_cell(d.p_holm, ".3g"),
            number_cell(len(d.seeds), ".0f"),
            text_cell(" ".join(f"{value:+.3f}" for value in d.by_seed)),
        )
        for d in all_differences(study)
    ]
    headers = ("model", "minus", "difference", "95% interval", "p (Holm)", "seeds", "by seed")
    caption = (
        f"Paired differences in {study.measure.name}, on the seeds and tasks that both have; intervals are "
        f"over {_intervals_over(study)}"
    )
    return ShownTable("differences-table", caption, headers, rows) if rows else None


SECTION = Section(
    "against-references",
    "Is it better than the reference?",
    sentences=(sentence,),
    figures=(_draw,),
    shown_tables=(_table,),
    data_tables=(difference_tables,),
)
