"""Does it last?  Returns beyond the episodes that training saw, and by the number of compressions."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cad.reports.data import (
    LAST_EPISODES,
    FloatArray,
    ModelResult,
    Study,
    common_compressions,
    compressing,
    compression_tables,
    cut_short,
    depth_columns,
    depth_row,
    intervals_over,
    is_long,
    mean_by_compressions,
    plural,
)
from cad.reports.plotting import (
    DOTTED,
    INK,
    LEGEND_WIDTH,
    MUTED,
    SMALL,
    Drawing,
    Hover,
    LineStyle,
    bare_axes,
    featured_styles,
    new_figure,
    render,
    tile,
    whole_scale,
    whole_ticks,
    wrap,
)
from cad.reports.questions.section import Section, banded, bands_of, left_out

_MOST_MODELS = 6
_MOST_ROWS = 16
_BLOCK = 10  # episodes that one point of a long roll-out averages
_LONG = 100  # number of episodes from which on blocks are drawn
_FEW = 5  # compressions, up to which each has a tick
_NOT_ALL = (
    " Curves end where a tenth of the roll-outs have no more compressions: what lies beyond is the others' "
    "alone (the CSV file has it too)."
)
_TICKS = (0, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


def sentence(study: Study) -> str:
    """The return after the episodes and the compressions that training saw."""
    lead = study.lead
    if lead is None or lead.score is None:
        return ""
    texts = []
    for model in dict.fromkeys([lead, *study.references]) if is_long(study) else ():
        returns, within = model.returns, model.returns.history_scores
        if within is not None:
            episodes, start = returns.units.shape[2], max(1, returns.history - LAST_EPISODES + 1)
            texts.append(
                f"{model.label}: {within.mean():.2f}{study.measure.of} over episodes "
                f"{start} to {returns.history}, where source histories end, {returns.scores.mean():.2f} over "
                f"episodes {max(1, episodes - LAST_EPISODES + 1)} to {episodes}."
            )
    depth = lead.facts.depth
    if lead in compressing(study) and depth:
        points = mean_by_compressions(lead)
        inside = [point for point in points if point[0] <= depth]
        late = points[-max(1, len(points) // 4) :]
        if inside and late[-1][0] > depth:
            texts.append(
                f"Trained with {plural(depth, 'compression')} in a row, "
                f"{lead.label} compresses up to {late[-1][0]} times: its return is {inside[-1][1]:.2f} after "
                f"{inside[-1][0]} and {np.mean([value for _, value in late]):.2f} after {late[0][0]} to "
                f"{late[-1][0]}."
            )
    return " ".join(texts)


def _draw(study: Study) -> Drawing | None:
    """Returns by episode and by compressions; None where roll-outs are short and nothing compresses."""
    if not study.comparable:
        return None
    long, featured = is_long(study), study.featured(_MOST_MODELS)
    counted = tuple(model for model in featured if model in compressing(study))
    if not long and not counted:
        return None
    early = any(map(_ends_early, featured))
    hover = Hover()
    figure = _panels(study, featured if long else counted, counted, long, hover)
    by_episode = (
        f"Return by episode, means over blocks of {_BLOCK} episodes in long roll-outs; the shaded part "
        f"is beyond the end of {'the longest' if early else 'a'} source history, which training never saw, "
        "and the scale is chosen for it"
        + ("" if early else "; triangles: how many episodes one training window shows")
        + ". "
        f"{bands_of(featured)}: 95% intervals over {intervals_over(study)}. "
    )
    by_compressions = (
        "Return of an episode by the number of compressions before it, means over roll-outs, then tasks, "
        "then seeds; the mark is the depth that training unrolled. Scale: linear to 10, then logarithmic."
        + (_NOT_ALL if any(map(cut_short, counted)) else "")
    )
    return Drawing(
        "lasting",
        "Beyond what training saw" if long or _beyond(counted) else "Return by number of compressions",
        (by_episode if long else "")
        + (by_compressions if counted else "")
        + left_out(len(study.scored) - len(featured), "References and best models"),
        "Line charts of return by episode and by number of compressions. " + sentence(study),
        (*(("return_by_episode",) if long else ()), *(("return_by_compressions",) if counted else ())),
        *render(figure, "lasting", hover),
    )


def _beyond(models: tuple[ModelResult, ...]) -> bool:
    """Whether roll-outs compress more often than training did."""
    return any(mean_by_compressions(model)[-1][0] > (model.facts.depth or 0) for model in models)


def _panels(
    study: Study, models: tuple[ModelResult, ...], counted: tuple[ModelResult, ...], long: bool, hover: Hover
) -> Figure:
    """A panel by episode where roll-outs are ``long``, one by compressions where those are ``counted``."""
    figure = new_figure(3.35)
    axes = list(figure.subplots(1, int(long) + bool(counted), squeeze=False)[0])
    styles = featured_styles(study, models)
    highest = max(float(model.returns.curve.max()) for model in models)
    top = max(1.05 if study.measure.unit else 0.0, 1.02 * highest)
    lowest = min(float(model.returns.curve.min()) for model in models)
    for ax in axes:
        if study.measure.unit:
            ax.axhline(1.0, color=MUTED, linewidth=0.8, linestyle=DOTTED)
        ax.set_ylim(min(0.0, 1.02 * lowest), top)
        ax.set_ylabel(study.measure.name)
    if long and study.measure.unit:
        axes[0].set_ylim(_lowest(models), top)
        _draw_episodes(axes[0], hover, models, styles, banded(study, models))
    if counted:
        _draw_compressions(axes[-1], hover, counted, styles)
    handles = [
        axes[0].plot([], [], color=styles[model.label].colour, linestyle=styles[model.label].dash)[0]
        for model in models
    ]
    labels = [wrap(model.label, LEGEND_WIDTH) for model in models]
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _blocks(curve: FloatArray, n: int) -> tuple[FloatArray, FloatArray]:
    """Middles (episodes from 1) and means of whole blocks of ``n`` episodes."""
    whole = len(curve) // n
    middles: FloatArray = np.arange(whole, dtype=np.float64) * n + (n + 1) / 2
    means: FloatArray = curve[: whole * n].reshape(whole, n).mean(axis=1)
    return middles, means


def _lowest(models: tuple[ModelResult, ...]) -> float:
    """A lower limit that shows what happens after the history's end; the rise before has its own figure."""
    late = [_blocks(model.returns.curve[model.returns.history :], 10)[1] for model in models]
    least = min((float(means.min()) for means in late if len(means)), default=0.0)
    below = math.floor(10 * least) / 10 - 0.1
    return below if least < 0 else max(0.0, below)


def _draw_episodes(
    ax: Axes,
    hover: Hover,
    models: tuple[ModelResult, ...],
    styles: dict[str, LineStyle],
    shaded: tuple[ModelResult, ...],
) -> None:
    n_episodes = max(model.returns.n_episodes for model in models)
    history = min(model.returns.history for model in models)
    ax.axvspan(history, n_episodes, color=MUTED, alpha=0.10, linewidth=0)
    ax.set_xlim(0, n_episodes)
    whole_ticks(ax)
    ax.set_xlabel("episode in context")
    for model in models:
        style, curve = styles[model.label], model.returns.curve
        n = _BLOCK if len(curve) >= _LONG else 1
        at, means = _blocks(curve, n)
        low, high = (_blocks(end, n)[1] for end in model.returns.band)
        if model in shaded:
            ax.fill_between(at, low, high, color=style.colour, alpha=0.12, linewidth=0)
        ax.plot(at, means, color=style.colour, linestyle=style.dash, linewidth=1.1)
        if not _ends_early(model):
            window = model.facts.training_window / model.config.evaluated_env.steps_per_episode
            at_bottom = ax.get_xaxis_transform()
            ax.plot(window, 0, "^", color=style.colour, markersize=4.7, clip_on=False, transform=at_bottom)
        names = {"x_name": "episode in context", "y_name": model.measure.name}
        hover.points(ax, at, means, name=model.label, **names)


def _ends_early(model: ModelResult) -> bool:
    """Whether episodes have lengths of their own, so that a window shows no certain number of them."""
    return any(cell.result.lengths is not None for cell in model.done)


def _draw_compressions(
    ax: Axes, hover: Hover, models: tuple[ModelResult, ...], styles: dict[str, LineStyle]
) -> None:
    curves = [(model, dict(mean_by_compressions(model))) for model in models]
    most = max(max(curve) for _, curve in curves)
    ticks = [tick for tick in _TICKS if tick <= most] if most > _FEW else list(range(most + 1))
    ax.set_xscale("symlog", linthresh=10)
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlim(0, most)
    ax.set_xlabel("compressions before the episode")
    for model, curve in curves:
        style, depth = styles[model.label], model.facts.depth
        ax.plot(list(curve), list(curve.values()), color=style.colour, linewidth=0.95)
        if depth in curve:
            ax.plot(depth, curve[depth], style.marker, color=style.colour, markersize=6.2)
        names = {"x_name": "compressions before the episode", "y_name": model.measure.name}
        hover.points(ax, curve, curve.values(), name=model.label, **names)


def _draw_matrix(study: Study) -> Drawing | None:
    """Trained depth against compressions in a roll-out; None where a single model compresses."""
    if not study.comparable:
        return None
    every = sorted(compressing(study), key=lambda model: (model.facts.depth or 0, model.facts.n_latent or 0))
    best = sorted(every, key=lambda model: -(model.score or 0.0))[:_MOST_ROWS]
    models = [model for model in every if model in best]
    if len(models) < 2:
        return None
    binned = depth_columns(study)
    rows = [
        [spot for spot in depth_row(model, binned) if spot.low <= common_compressions(model)]
        for model in models
    ]
    columns = sorted({(spot.low, spot.high): spot.counts for row in rows for spot in row}.items())
    place = {low: column for column, ((low, _), _) in enumerate(columns)}
    figure, hover = new_figure(0.9 + 0.3 * len(models)), Hover()
    ax = figure.subplots()
    bare_axes(ax, len(columns), len(models))
    norm = whole_scale([spot.mean for row in rows for spot in row], shares=bool(study.measure.unit))
    for i, (model, row) in enumerate(zip(models, rows, strict=True)):
        for spot in row:
            name = f"{model.label}: {spot.counts} compressions ({spot.episodes:,} episodes)"
            tile(
                ax, hover, (place[spot.low], i), spot.mean, f"{spot.mean:.2f}", norm, size=SMALL, name=name,
                measure=study.measure.name,
            )  # fmt: skip
        seen = sum(high <= (model.facts.depth or 0) for (_, high), _ in columns)
        ax.plot([seen, seen], [i, i + 1], color=INK, linewidth=2.2)
    ax.set_xticks([column + 0.5 for column in range(len(columns))], [counts for _, counts in columns])
    labels = [wrap(f"{model.label} (trained to {model.facts.depth})", 46) for model in models]
    ax.set_yticks([i + 0.5 for i in range(len(models))], labels, fontsize=SMALL)
    ax.set_xlabel("compressions before the episode")
    return Drawing(
        "depth-matrix",
        "Trained depth and compressions in a roll-out",
        f"Mean {study.measure.name} of the episodes that begin after so many compressions, over roll-outs, "
        "then tasks; several numbers of compressions, and seeds, count by their episodes. Right of the thick "
        "line: more compressions in a row than training unrolled."
        + (_NOT_ALL.replace("Curves", "Rows") if any(map(cut_short, models)) else "")
        + left_out(len(every) - len(models), f"The best {_MOST_ROWS} models"),
        "Heat map of return by trained depth and number of compressions. "
        + "; ".join(
            f"{model.label}: " + ", ".join(f"{spot.mean:.2f} after {spot.counts}" for spot in row)
            for model, row in zip(models, rows, strict=True)
        )
        + ".",
        ("depth_by_compressions",),
        *render(figure, "depth-matrix", hover),
    )


SECTION = Section(
    "does-it-last",
    "Does it last?",
    sentences=(sentence,),
    figures=(_draw, _draw_matrix),
    data_tables=(compression_tables,),
)
