"""How much can be remembered?  Return against the bits that a task makes a model remember."""

from __future__ import annotations

from cad.reports.data import (
    Curve,
    Study,
    capacity_curves,
    capacity_tables,
    finite,
    intervals_over,
    plural,
    without_a_curve,
)
from cad.reports.plotting import (
    DASHES,
    LEGEND_WIDTH,
    MARKERS,
    PALETTE,
    Drawing,
    Hover,
    new_figure,
    render,
    wrap,
)
from cad.reports.questions.section import Section, left_out

_MOST_CURVES = 12
_SHARE = 0.9


def sentence(study: Study) -> str:
    """Up to how many bits each curve stays close to the optimum; nothing of returns as they are."""
    curves = capacity_curves(study)
    if not curves or not study.measure.unit:
        return ""
    parts = []
    for curve in curves[:_MOST_CURVES]:
        most, hardest = curve.most_bits(_SHARE), curve.points[-1]
        easiest = curve.points[0]
        nowhere = f"not even at {easiest.bits:.4g} bits, {easiest.model.score:.2f}"
        reach = f"up to {most:.4g} bits" if most is not None else nowhere
        parts.append(f"{curve.name}: {reach} ({hardest.model.score:.2f} at {hardest.bits:.4g})")
    seeds = min(len(point.model.done) for curve in curves for point in curve.points)
    return (
        f"Return at or above {_SHARE}{study.measure.of}, by bits to remember: {'; '.join(parts)}. Each point "
        f"is a training of its own, on {plural(seeds, 'seed')} at least."
    )


def _draw(study: Study) -> Drawing | None:
    """Return by bits, a curve a model; None where all tasks are of one size."""
    every = capacity_curves(study)
    curves = every[:_MOST_CURVES]
    if not curves:
        return None
    alone = without_a_curve(study)
    figure, hover = new_figure(3.3), Hover()
    ax = figure.subplots()
    for i, curve in enumerate(curves):
        x = [point.bits for point in curve.points]
        y = [point.model.score or 0.0 for point in curve.points]
        low, high = zip(
            *(map(finite, point.model.returns.score_interval) for point in curve.points), strict=True
        )
        colour = PALETTE[i % len(PALETTE)]
        dash = DASHES[i // len(PALETTE) % len(DASHES)]
        ax.plot(
            x, y, color=colour, linestyle=dash, marker=MARKERS[i % len(MARKERS)],
            label=wrap(f"{curve.name} ({curve.state_bytes / 1024:,.0f} KiB)", LEGEND_WIDTH),
        )  # fmt: skip
        for at, bottom, top in zip(x, low, high, strict=True):
            if bottom is not None and top is not None:
                ax.plot([at, at], [bottom, top], color=colour, linewidth=0.8)
        hover.points(
            ax, x, y, name=curve.name, x_name="bits to remember", y_name=study.measure.name,
            notes=[f"({_tasks(curve, k)})" for k in range(len(x))],
        )  # fmt: skip
    ax.set_xscale("log", base=2)
    ticks = sorted({point.bits for curve in curves for point in curve.points})
    ax.set_xticks(ticks, [f"{bits:,.{1 if bits < 10 else 0}f}" for bits in ticks])
    ax.set_xticks([], minor=True)
    ax.set_ylim(0, 1.04)
    ax.set_xlabel("bits that a task makes an agent remember")
    ax.set_ylabel(f"{study.measure.name}, last episodes")
    figure.legend(loc="outside lower center", ncols=3)
    return Drawing(
        "capacity",
        "Return by bits to remember",
        "Return over the optimum of a model's own tasks, mean over roll-outs, tasks and seeds; lines: 95% "
        f"intervals over {intervals_over(study)}. In the legend: the state of one roll-out. Models on one "
        "curve have the same settings of the model; their training may go with the size of the task."
        + left_out(len(every) - len(curves), f"The first {_MOST_CURVES} curves")
        + (f" On no curve: {plural(alone, 'model')} of one size alone." if alone else ""),
        "Line chart of return over optimum by bits to remember. " + sentence(study),
        ("capacity",),
        *render(figure, "capacity", hover),
    )


def _tasks(curve: Curve, k: int) -> str:
    return curve.points[k].model.config.env.in_words()


SECTION = Section(
    "capacity",
    "How much can be remembered?",
    sentences=(sentence,),
    figures=(_draw,),
    data_tables=(capacity_tables,),
    across_tasks=True,
)
