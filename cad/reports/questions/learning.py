"""Does it learn in context?  Return by episode, and how many runs reach a given return."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cad.config import SourceConfig
from cad.reports.data import (
    FEW_SEEDS,
    THRESHOLDS,
    ModelResult,
    Study,
    describe,
    interval_note,
    intervals_over,
    last_episodes,
    learning_tables,
    profile,
    profile_tables,
    source_agent,
)
from cad.reports.plotting import (
    DOTTED,
    INK,
    LEGEND_WIDTH,
    MUTED,
    SMALL,
    TEXT,
    Drawing,
    Hover,
    LineStyle,
    featured_styles,
    line_styles,
    new_figure,
    render,
    spread,
    whole_ticks,
    wrap,
)
from cad.reports.questions.section import Section, banded, bands_of, left_out

_ONE_PANEL = 6  # models that one panel of curves can hold and still be read
_MOST_PANELS = 24
_MOST_PROFILES = 6
_HEIGHT = 3.6  # inches
_MOST_TICKS = 12  # a fifth apart
_EPISODES = "episode in context"


def _axes(study: Study) -> dict[str, str]:
    return {"x_name": _EPISODES, "y_name": study.measure.name}


def _learning_sentence(study: Study) -> str:
    """Return of the lead and of the source algorithm in the first and the last episodes."""
    lead = study.lead
    if lead is None or lead.score is None:
        return ""
    curve = lead.returns.curve
    text = (
        f"{describe(lead)} goes from {curve[0]:.2f}{study.measure.of} in its first episode to "
        f"{lead.score:.2f} over the last {last_episodes(len(curve))}"
    )
    source = study.source_curve(len(curve))
    if source is not None:
        end = source[-last_episodes(len(source)) :].mean()
        text += f"; source {_agent(study)} goes from {source[0]:.2f} to {end:.2f} in {len(source)} episodes"
    return text + "." + ("" if _source(study).IS_ALGORITHM else f" This is {_source(study).METHOD}.")


def _profile_sentence(study: Study) -> str:
    """How many runs come close to the optimum; empty where returns are shares of nothing."""
    if not study.measure.unit:
        return ""
    parts = [
        f"{(model.returns.scores >= 0.9 - 1e-9).sum():,} of {model.returns.scores.size:,} for {model.label}"
        for model in dict.fromkeys([study.best(ad=False), *study.references])
        if model is not None
    ]
    return (
        f"Pairs of seed and task that reach {study.measure.level(0.9)}: {', '.join(parts)}." if parts else ""
    )


def _band_words(study: Study) -> str:
    """What the shaded bands are, for the caption."""
    seeds = max((len(model.done) for model in study.scored), default=0)
    if study.scored and len(study.scored[0].task_scores) < 2:
        return "One task does not show how tasks vary: there are no bands. No significance is claimed."
    models = study.scored if len(study.scored) <= _ONE_PANEL else ()
    text = f"{bands_of(models)}: 95% bootstrap intervals over {intervals_over(study)}"
    if 1 < seeds <= FEW_SEEDS:
        text += "; thin lines are single seeds"
    return text + (". No significance is claimed." if seeds <= FEW_SEEDS else ".")


def _draw_curve(
    ax: Axes, hover: Hover, model: ModelResult, style: LineStyle, names: dict[str, str], *, band: bool
) -> None:
    """A model's mean; with its ``band`` and, of few seeds, their own lines."""
    curve, (low, high) = model.returns.curve, model.returns.band
    episodes = np.arange(1, len(curve) + 1)
    if band:
        ax.fill_between(episodes, low, high, color=style.colour, alpha=0.14, linewidth=0)
    if band and 1 < len(model.done) <= FEW_SEEDS:
        for seed, seed_curve in zip(model.seeds, model.returns.seed_curves, strict=True):
            ax.plot(episodes, seed_curve, color=style.colour, linewidth=0.55, alpha=0.7)
            hover.points(ax, episodes, seed_curve, name=f"{model.label}, seed {seed}", **names)
    ax.plot(episodes, curve, color=style.colour, linestyle=style.dash)
    notes = [interval_note(*ends, len(model.done)) for ends in zip(low, high, strict=True)]
    hover.points(ax, episodes, curve, name=model.label, notes=notes, **names)


def _source(study: Study) -> SourceConfig:
    return study.models[0].config.source


def _agent(study: Study) -> str:
    """The agent whose histories were learned from."""
    return source_agent(study.models[0].config)


def _verb(study: Study) -> str:
    return "learned" if _source(study).IS_ALGORITHM else "acted in"


def _draw_levels(ax: Axes, hover: Hover, study: Study, n_episodes: int) -> list[tuple[float, str, str]]:
    """Optimum and source agents; returns (height, text, colour) of their labels."""
    if study.measure.unit:
        ax.axhline(1.0, color=MUTED, linewidth=0.8, linestyle=DOTTED)
    labels = [(1.0, study.measure.unit, MUTED)] if study.measure.unit else []
    curve = study.source_curve(n_episodes)
    if curve is not None:
        name = f"source {_agent(study)}" + ", learning" * _source(study).IS_ALGORITHM
        episodes = np.arange(1, len(curve) + 1)
        ax.plot(episodes, curve, color=MUTED, linewidth=1.0)
        hover.points(ax, episodes, curve, name=name, **_axes(study))
        labels.append((float(curve[-1]), name, MUTED))
    return labels


def _label_ends(ax: Axes, labels: list[tuple[float, str, str]], n_episodes: int) -> None:
    """Names at the right ends of lines, moved apart where they would touch."""
    wrapped = [wrap(text, 34) for _, text, _ in labels]
    bottom, top = ax.get_ylim()
    gap = 0.052 * (top - bottom) / 1.06 * max(text.count("\n") + 1 for text in wrapped)
    placed = spread([value for value, _, _ in labels], gap)
    for (value, _, colour), text, at in zip(labels, wrapped, placed, strict=True):
        ax.annotate(
            text,
            xy=(n_episodes, value),
            xytext=(1.035, at),
            textcoords=ax.get_yaxis_transform(),
            fontsize=SMALL,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 1.0,
                "shrinkA": 0.8,
                "shrinkB": 1.6,
                "relpos": (0, 0.5),
            },
        )


def _limit(ax: Axes, study: Study, n_episodes: int) -> None:
    curves = [model.returns.curve for model in study.scored]
    highest, lowest = max(float(curve.max()) for curve in curves), min(float(curve.min()) for curve in curves)
    # Of one task there is no band; of a few, one without bounds would flatten the curves.
    room = math.inf if study.measure.bounded else max(highest - lowest, 0.05 * abs(highest))
    ends = [end for model in study.scored for end in model.returns.band if np.isfinite(end).all()]
    highest = min(highest + room, max([highest, *(float(end.max()) for end in ends)]))
    lowest = min(0.0, max(lowest - room, min([lowest, *(float(end.min()) for end in ends)])))
    top = max(1.06 if study.measure.unit else 0.0, 1.02 * highest)
    ax.set_xlim(0.5 if n_episodes > 1 else 0, n_episodes + 0.5)
    whole_ticks(ax)
    ax.set_ylim(1.02 * lowest, top)
    if study.measure.unit and top - lowest < _MOST_TICKS * 0.2:
        ax.set_yticks(np.arange(math.ceil(5 * 1.02 * lowest) / 5, top, 0.2))


def _draw_learning(study: Study) -> Drawing | None:
    """Return by in-context episode, every model with a done cell."""
    models = study.scored
    if not models:
        return None
    # Longer roll-outs belong to "Does it last?".
    n_episodes = max(min(model.returns.n_episodes, 2 * model.returns.history) for model in models)
    hover, how = Hover(), ""
    if len(models) <= _ONE_PANEL:
        figure = _one_panel(study, hover, n_episodes)
    else:
        figure = _many_panels(study, hover, n_episodes)
        dotted = f"; dotted: the {study.measure.unit}." if study.measure.unit else "."
        how = f"Dashed in each panel: the best AD; grey: source {_agent(study)}{dotted}"
        how += left_out(len(models) - _MOST_PANELS, "References and best models") + " "
    curves = [(model.label, model.returns.curve) for model in study.featured(_MOST_PANELS)]
    ends = "; ".join(f"{label}: {curve[0]:.2f} to {curve[:n_episodes][-1]:.2f}" for label, curve in curves)
    longer = any(model.returns.n_episodes > n_episodes for model in models)
    return Drawing(
        "learning",
        "Return by in-context episode",
        f"{study.task_kind.capitalize()} return {study.measure.divided}, mean over roll-outs, then "
        "tasks, then seeds. "
        + how
        + (f"The first {n_episodes} episodes. " if longer else "")
        + _band_words(study)
        + (
            f" Source {_agent(study)}: how the {_source(study).AGENTS} {_verb(study)} the same tasks, by "
            "their own episodes, mean over streams."
            if study.source is not None
            else ""
        ),
        f"Line chart of {study.measure.name} from episode 1 to {n_episodes}. First to last episode: {ends}.",
        ("return_by_episode", "source"),
        *render(figure, "learning", hover),
    )


def _one_panel(study: Study, hover: Hover, n_episodes: int) -> Figure:
    """All models in one panel."""
    styles = line_styles(study)
    figure = new_figure(_HEIGHT)
    ax = figure.subplots()
    labels = _draw_levels(ax, hover, study, n_episodes)
    shaded = banded(study, study.scored)
    for model in study.scored:
        _draw_curve(ax, hover, model, styles[model.label], _axes(study), band=model in shaded)
        end = float(model.returns.curve[:n_episodes][-1])
        labels.append((end, model.label, styles[model.label].colour))
    _limit(ax, study, n_episodes)
    _label_ends(ax, labels, n_episodes)
    ax.set_xlabel(_EPISODES)
    ax.set_ylabel(study.measure.name)
    return figure


def _many_panels(study: Study, hover: Hover, n_episodes: int) -> Figure:
    """One small panel a model, with the best AD in each."""
    models, styles = study.featured(_MOST_PANELS), line_styles(study)
    columns = 4
    rows = math.ceil(len(models) / columns)
    figure = new_figure(0.4 + 1.36 * rows)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    reference = study.best(ad=True)
    for ax, model in zip(axes.flat, models, strict=False):
        _draw_levels(ax, hover, study, n_episodes)
        if reference is not None and model is not reference:
            curve = reference.returns.curve
            ax.plot(np.arange(1, len(curve) + 1), curve, color=INK, linewidth=0.8, linestyle=(0, (4, 2)))
        _draw_curve(ax, hover, model, styles[model.label], _axes(study), band=True)
        _limit(ax, study, n_episodes)
        ax.set_title(wrap(model.label, 28), fontsize=6.2, fontweight="normal")
    for i, ax in enumerate(axes.flat):
        ax.set_visible(i < len(models))
        ax.tick_params(labelbottom=i + columns >= len(models))
    figure.supxlabel(_EPISODES, fontsize=TEXT)
    figure.supylabel(study.measure.name, fontsize=TEXT)
    return figure


def _draw_profile(study: Study) -> Drawing | None:
    """Curves of the best models and of the references; None where nothing can be compared.

    None for raw returns, too: no level between 0 and 1 means anything there.
    """
    models = study.featured(_MOST_PROFILES)
    if not models or not study.comparable or not study.measure.unit:
        return None
    styles = featured_styles(study, models)
    shaded = banded(study, models)
    figure, hover = new_figure(3.1), Hover()
    ax = figure.subplots()
    x_name, y_name = (
        f"{study.measure.name}, last episodes",
        "share of seeds x tasks\nthat reach at least that",
    )
    for model in models:
        share, low, high = profile(model)
        style = styles[model.label]
        if model in shaded:
            ax.fill_between(THRESHOLDS, low, high, step="post", color=style.colour, alpha=0.13, linewidth=0)
        ax.step(
            THRESHOLDS, share, where="post", color=style.colour, linestyle=style.dash,
            label=wrap(model.label, LEGEND_WIDTH),
        )  # fmt: skip
        hover.points(ax, THRESHOLDS, share, name=model.label, x_name=x_name, y_name=y_name)
    lowest = min(float(model.returns.scores.min()) for model in models)
    # To the left of it all curves are 1.
    ax.set_xlim(min(0.9, max(0.0, math.floor(10 * lowest) / 10 - 0.1)), 1)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel(x_name)
    ax.set_ylabel(y_name)
    figure.legend(loc="outside lower center", ncols=min(3, len(models)))
    return Drawing(
        "profile",
        "Performance profile",
        f"Each pair of training seed and {study.task_kind} task counts once, its roll-outs averaged. A curve "
        "further up and to the right is better; where curves cross, a single mean hides part of the result. "
        f"{bands_of(models)}: 95% bootstrap intervals, point by point, over {intervals_over(study)}."
        + left_out(len(study.scored) - len(models), "References and best models"),
        "Step chart of the share of seeds and tasks above each return. " + _profile_sentence(study),
        ("profile",),
        *render(figure, "profile", hover),
    )


SECTION = Section(
    "learning-in-context",
    "Does it learn in context?",
    sentences=(_learning_sentence, _profile_sentence),
    figures=(_draw_learning, _draw_profile),
    data_tables=(learning_tables, profile_tables),
)
