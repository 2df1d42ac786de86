"""How long is a fact remembered?  For tasks of which each episode needs one of several facts."""

from __future__ import annotations

from cad.reports.data import (
    FEWEST_EPISODES,
    Study,
    compressed_recall,
    describe,
    mean_recall,
    recall_tables,
    repeated_recall,
)
from cad.reports.plotting import (
    LEGEND_WIDTH,
    TEXT,
    Drawing,
    Hover,
    featured_styles,
    new_figure,
    render,
    wrap,
)
from cad.reports.questions.section import Section, left_out

_MOST_CURVES = 6


def sentence(study: Study) -> str:
    """Return of the best model where its fact was needed just before, and where it is oldest."""
    if study.lead is None or len(recalls := repeated_recall(study.lead)) < 2:
        return ""
    young, old = recalls[0], recalls[-1]
    first = [
        item.mean for item in mean_recall(study.lead) if not item.low and item.episodes >= FEWEST_EPISODES
    ]
    text = (
        f"{describe(study.lead)} returns {young.mean:.2f}{study.measure.of} where the fact that an episode "
        f"needs was needed {young.ages} episode{'s' * (young.high > 1)} before, and {old.mean:.2f} after "
        f"{old.ages} episodes ({old.episodes:,} episodes show that)"
    )
    text += f"; {first[0]:.2f} where it meets a fact for the first time." if first else "."
    folded = [item for item in compressed_recall(study.lead) if item.low]
    if len(folded) > 1:
        once, often = folded[0], folded[-1]
        text += (
            f" Of a fact that was compressed {'once' if once.high == 1 else f'{once.span} times'} since, it "
            f"returns {once.mean:.2f}, after {often.span} compressions {often.mean:.2f}."
        )
    return text


def _draw(study: Study) -> Drawing | None:
    """Return by age of the fact, and by how often it was compressed; None where tasks have one fact."""
    every = [model for model in study.scored if repeated_recall(model)]
    models = [model for model in study.featured(_MOST_CURVES) if model in every]
    if not models:
        return None
    panels = [("episodes since the fact was last needed", {m: repeated_recall(m) for m in models})]
    if folded := {model: recalls for model in models if (recalls := compressed_recall(model))}:
        panels.append(("compressions since", folded))
    styles, figure, hover = featured_styles(study, models), new_figure(3.0), Hover()
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for ax, (x_name, curves) in zip(axes, panels, strict=True):
        lows = sorted({item.low: item.span for recalls in curves.values() for item in recalls}.items())
        places = {low: place for place, (low, _) in enumerate(lows)}
        for model, recalls in curves.items():
            style = styles[model.label]
            x, y = [places[item.low] for item in recalls], [item.mean for item in recalls]
            ax.plot(
                x, y, color=style.colour, linestyle=style.dash, marker=style.marker,
                label=wrap(model.label, LEGEND_WIDTH),
            )  # fmt: skip
            hover.points(
                ax, x, y, name=model.label, x_name=x_name, y_name=study.measure.name,
                x_words=[item.span for item in recalls],
                notes=[f"({item.episodes:,} episodes)" for item in recalls],
            )  # fmt: skip
        ax.set_xticks(range(len(lows)), [span for _, span in lows], fontsize=TEXT - 1)
        ax.set_ylim(0, 1.04)
        ax.set_xlabel(x_name)
    axes[0].set_ylabel(study.measure.name)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(3, len(models)))
    right = " Right: by the compressions since that episode began; 0: it is in the window." if folded else ""
    return Drawing(
        "recall",
        "Return by age of the fact",
        "Return over the optimum of the episode, in the second half of the roll-outs' episodes, by the "
        "number of episodes since the episode's fact was last needed. Means over roll-outs and episodes, "
        f"then tasks, then seeds. Ages that fewer than {FEWEST_EPISODES} episodes have are left out."
        + right
        + left_out(len(every) - len(models), "References and best models"),
        "Line chart of return over optimum by age of the fact. " + sentence(study),
        ("recall", *(["recall_by_compressions"] if folded else [])),
        *render(figure, "recall", hover),
    )


SECTION = Section(
    "recall",
    "How long is a fact remembered?",
    sentences=(sentence,),
    figures=(_draw,),
    data_tables=(recall_tables,),
)
