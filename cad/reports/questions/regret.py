"""What does learning cost?  Cumulative regret, for families with programs that are known to lose little."""

from __future__ import annotations

import numpy as np

from cad.reports.data import Study, describe, model_regret, plural, reference_regrets, regret_tables
from cad.reports.plotting import (
    LEGEND_WIDTH,
    MUTED,
    Drawing,
    Hover,
    featured_styles,
    new_figure,
    render,
    whole_ticks,
    wrap,
)
from cad.reports.questions.section import Section, left_out

_MOST_CURVES = 6
_REFERENCE_DASHES = ((0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))


def sentence(study: Study) -> str:
    """What the lead, the best AD and the reference learners have lost at the end."""
    references = reference_regrets(study)
    if study.lead is None or not references:
        return ""
    lead = model_regret(study.lead)
    text = (
        f"In {plural(len(lead.curve), 'episode')} {describe(study.lead)} loses {lead.curve[-1]:.1f} rewards "
        "to an agent that knows the task"
    )
    if (ad := study.best(ad=True)) is not None and ad is not study.lead:
        text += f", {describe(ad)} {model_regret(ad).curve[-1]:.1f}"
    lost = ", ".join(f"{item.label} {item.curve[-1]:.1f}" for item in references)
    return f"{text}; programs that learn every task from scratch: {lost}."


def _draw(study: Study) -> Drawing | None:
    """Cumulative regret by episode; None where a family has no reference."""
    references = reference_regrets(study)
    models = study.featured(_MOST_CURVES)
    if not references or not models:
        return None
    styles, figure, hover = featured_styles(study, models), new_figure(3.1), Hover()
    ax = figure.subplots()
    x_name, y_name = "episode in context", "cumulative regret, rewards"
    curves = [
        (item.label, item.curve, MUTED, _REFERENCE_DASHES[number % len(_REFERENCE_DASHES)])
        for number, item in enumerate(references)
    ]
    for model in models:
        style = styles[model.label]
        curves.append((model.label, model_regret(model).curve, style.colour, style.dash))
    for label, curve, colour, dash in curves:
        episodes = np.arange(1, len(curve) + 1)
        ax.plot(episodes, curve, color=colour, linestyle=dash, label=wrap(label, LEGEND_WIDTH))
        hover.points(ax, episodes, curve, name=label, x_name=x_name, y_name=y_name)
    ax.set_xlim(left=0)
    whole_ticks(ax)
    ax.set_ylim(bottom=0)
    ax.set_xlabel(x_name)
    ax.set_ylabel(y_name)
    figure.legend(loc="outside lower center", ncols=min(3, len(curves)))
    return Drawing(
        "regret",
        "Cumulative regret",
        "Optimum minus return, added up over the episodes of a roll-out. Means over roll-outs, then tasks, "
        "then seeds. Grey: programs that learn every task from scratch, in the same tasks with the same "
        "chance, without random actions."
        + left_out(len(study.scored) - len(models), "References and best models"),
        "Line chart of cumulative regret by episode. " + sentence(study),
        ("regret",),
        *render(figure, "regret", hover),
    )


SECTION = Section(
    "regret",
    "What does learning cost?",
    sentences=(sentence,),
    figures=(_draw,),
    data_tables=(regret_tables,),
)
