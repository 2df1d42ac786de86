"""How did training go?  Loss, accuracy, gradient norm, validation return, pre-training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from cad.reports.data import (
    CellResult,
    MetricLines,
    ModelResult,
    Study,
    metric_series,
    metrics_by_depth,
    training_tables,
)
from cad.reports.plotting import (
    INK,
    LEGEND_WIDTH,
    PALETTE,
    SMALL,
    TEXT,
    Drawing,
    Hover,
    featured_styles,
    is_crowded,
    line_styles,
    new_figure,
    render,
    whole_ticks,
    wrap,
)
from cad.reports.questions.section import Section, left_out

_MOST_DEPTH_PANELS = 8
_MOST_LINES = 60
_MOST_MODELS = 12
_TRAINING = (
    ("loss", "loss, nats an action"),
    ("accuracy", "accuracy, share of actions"),
    ("gradient_norm", "gradient norm, before clipping"),
    ("validation_return", "validation return, normalised"),
)
_PRETRAINING = (
    ("loss", "pre-training loss"),
    ("accuracy", "accuracy, share of fields"),
    ("correlation", "correlation with the embeddings"),
    ("latent_variance", "variance of the latents"),
)


def sentence(study: Study) -> str:
    """Where losses and accuracies ended, and what did not get that far."""
    lead = study.lead
    texts = []
    for model in dict.fromkeys([lead, study.best(ad=True)]):
        if model is None:
            continue
        both = [
            [values[-1] for cell in model.done if (values := metric_series(cell.result.metrics, name)[1])]
            for name in ("loss", "accuracy")
        ]
        if all(both):
            loss, accuracy = (sum(values) / len(values) for values in both)
            texts.append(f"{model.label} ends training at loss {loss:.3f} and accuracy {accuracy:.3f}.")
    if lead is not None and lead.facts.depth:
        deepest = [
            (values[-1], shallow[-1])
            for cell in lead.done
            if (names := list(metrics_by_depth(cell, "accuracy").values()))
            and (values := metric_series(cell.result.metrics, names[-1])[1])
            and (shallow := metric_series(cell.result.metrics, names[0])[1])
        ]
        if deepest:
            deep, shallow_mean = (sum(values) / len(deepest) for values in zip(*deepest, strict=True))
            texts.append(
                f"At depth {lead.facts.depth} the accuracy of {lead.label} is {deep:.3f}, at depth 0, "
                f"without latents, {shallow_mean:.3f}."
            )
    ends = [
        values[-1]
        for cell in study.cells
        if (values := metric_series(cell.result.pretrain_metrics, "accuracy")[1])
    ]
    if ends:
        low, high = min(ends), max(ends)
        span = f"{low:.3f}" if high - low < 0.0005 else f"{low:.3f} to {high:.3f}"
        texts.append(f"Pre-training ends at a reconstruction accuracy of {span}.")
    return " ".join(texts)


def _validated(study: Study) -> str:
    """What validations are, and that evaluations have more episodes; empty where there are none."""
    trainings = [model.config.train for model in study.models]
    counts = {train.validation_episodes for train in trainings if train.validate_every}
    if not counts:
        return ""
    first, most = sorted(count // 2 + 1 for count in counts), sorted(counts)
    episodes = " or ".join(f"{low} to {high}" for low, high in zip(first, most, strict=True))
    text = (
        "; return on the validation tasks, which are split off the training tasks, in episodes "
        f"{episodes} of a roll-out"
    )
    longest = max((model.config.evaluation.n_episodes for model in study.models), default=0)
    if longest > max(counts):
        text += f" (evaluations have {longest}, so that more is learned by their end)"
    return text


def _draw_training(study: Study) -> Drawing | None:
    """Loss, accuracy, gradient norm, validation return of every training; None where none is stored."""
    hover = Hover()
    drawn = _draw_lines(study, hover, _TRAINING, lambda result: result.metrics)
    if drawn is None:
        return None
    figure, note = drawn
    return Drawing(
        "training",
        "How training went",
        "Loss and accuracy on training batches, mean over all supervised actions; the gradient's norm before "
        f"it is clipped (logarithmic){_validated(study)}. One line a cell and seed, failed ones "
        f"included.{note}",
        "Line charts of loss, accuracy, gradient norm and validation return by update. " + sentence(study),
        ("training",),
        *render(figure, "training", hover),
    )


def _draw_pretraining(study: Study) -> Drawing | None:
    """Loss and accuracy of every pre-training; None where there was none."""
    hover = Hover()
    drawn = _draw_lines(study, hover, _PRETRAINING, lambda result: result.pretrain_metrics)
    if drawn is None:
        return None
    figure, note = drawn
    return Drawing(
        "pretraining",
        "How pre-training went",
        "Reconstruction of compressed steps from the latents alone, mean over depths and fields, and how "
        "much latents vary between histories: without variance they would hold no information. Models that "
        f"share a pre-training share a line.{note}",
        "Line charts of pre-training loss, accuracy and variance of latents by update.",
        ("pretraining",),
        *render(figure, "pretraining", hover),
    )


def _draw_lines(
    study: Study,
    hover: Hover,
    metrics: Sequence[tuple[str, str]],
    of: Callable[[CellResult], MetricLines],
) -> tuple[Figure, str] | None:
    """A panel a metric that some cell has, and what the caption says of lines left out."""
    cells = [(model, cell) for model in study.intact for cell in model.cells if of(cell.result)]
    panels = [
        (metric, text)
        for metric, text in metrics
        if any(metric_series(of(cell.result), metric)[0] for _, cell in cells)
    ]
    if not panels:
        return None
    note, featured, styles = "", study.featured(_MOST_MODELS), line_styles(study)
    if len(cells) > _MOST_LINES:
        note = f" Of {len(cells)} trainings those of the references and best models; all are in the CSV file."
        cells = [(model, cell) for model, cell in cells if model in featured]
        styles = featured_styles(study, featured)
    crowded = is_crowded(study)
    columns = len(panels) if len(panels) != 4 else 2
    blocks = math.ceil(len(panels) / columns)
    figure = new_figure(0.78 + 2.02 * blocks)
    axes = figure.subplots(blocks, columns, squeeze=False).ravel()
    handles: dict[str, Artist] = {}
    for ax, (metric, text) in zip(axes, panels, strict=True):
        drawn = set()
        for model, cell in cells:
            style, (steps, values) = styles[model.label], metric_series(of(cell.result), metric)
            if not steps or (points := (tuple(steps), tuple(values))) in drawn:
                continue
            drawn.add(points)
            marked = metric == "validation_return" and not crowded
            (line,) = ax.plot(
                steps, values, color=style.colour, linestyle=style.dash, linewidth=0.6 if crowded else 0.95,
                marker=style.marker if marked else None, markersize=3.1,
            )  # fmt: skip
            handles.setdefault(style.legend, line)
            name = f"{model.label}, seed {cell.result.config.seed}"
            hover.points(ax, steps, values, name=name, x_name="update", y_name=text)
        _dress(ax, metric, text)
    figure.legend(
        list(handles.values()), [wrap(label, LEGEND_WIDTH) for label in handles], loc="outside lower center",
        ncols=min(3, len(handles)),
    )  # fmt: skip
    return figure, note


def _dress(ax: Axes, metric: str, title: str) -> None:
    """Title and scales of a metric's panel."""
    whole_ticks(ax)
    ax.set_xlabel("update")
    ax.set_xlim(left=0)
    ax.set_title(title, fontsize=TEXT, fontweight="normal")
    if metric == "gradient_norm":
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
    elif metric in ("validation_return", "latent_variance"):
        ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0] if ax.dataLim.ymin < 0 else 0.0))


def _draw_training_by_depth(study: Study) -> Drawing | None:
    """Loss and accuracy by compression depth, where trainings wrote them."""
    every = [
        model
        for model in study.intact
        if model.facts.reports_depths and any(len(metrics_by_depth(cell, "loss")) > 1 for cell in model.cells)
    ]
    if not every:
        return None
    models = sorted(every, key=lambda model: -(model.score or 0.0))[:_MOST_DEPTH_PANELS]
    hover = Hover()
    figure = _depth_panels(models, hover)
    return Drawing(
        "training_by_depth",
        "Loss and accuracy by compression depth",
        "Depth k: actions predicted with latents that were compressed k times (0: not yet). A depth that "
        "lags behind depth 0 is one where the latents lose what the decoder needs."
        + left_out(len(every) - len(models), "The best models"),
        "Line charts of loss and accuracy by update, one line a compression depth, one column a model.",
        ("training",),
        *render(figure, "training_by_depth", hover),
    )


def _depth_panels(models: Sequence[ModelResult], hover: Hover) -> Figure:
    """A column a model: loss above, accuracy below, in blocks of four columns."""
    columns = min(4, len(models))
    blocks = math.ceil(len(models) / columns)
    figure = new_figure(0.4 + 2.8 * blocks, max(3.9, 1.75 * columns))
    axes = figure.subplots(2 * blocks, columns, squeeze=False, sharex=True)
    for ax in axes.flat:
        ax.set_visible(False)
    handles: dict[str, Artist] = {}
    for i, model in enumerate(models):
        block, column = divmod(i, columns)
        for row, (metric, text) in enumerate((("loss", "loss, nats"), ("accuracy", "accuracy"))):
            ax = axes[2 * block + row, column]
            ax.set_visible(True)
            for cell in model.cells:
                for depth, name in metrics_by_depth(cell, metric).items():
                    steps, values = metric_series(cell.result.metrics, name)
                    colour = INK if depth == 0 else PALETTE[(depth - 1) % len(PALETTE)]
                    (line,) = ax.plot(steps, values, color=colour, linewidth=0.95)
                    handles.setdefault(f"depth {depth}", line)
                    label = f"{model.label}, seed {cell.result.config.seed}, depth {depth}"
                    hover.points(ax, steps, values, name=label, x_name="update", y_name=text)
            ax.set_ylabel(text if column == 0 else "")
            if row == 0:
                ax.set_title(wrap(model.label, 28), fontsize=SMALL)
            elif block == blocks - 1 or i + columns >= len(models):
                whole_ticks(ax)
                ax.set_xlabel("update")
                ax.tick_params(labelbottom=True)
    for first in range(2):  # equal limits, so that panels compare
        row_axes = [ax for ax in axes[first::2].flat if ax.get_visible()]
        low = min(ax.get_ylim()[0] for ax in row_axes)
        high = max(ax.get_ylim()[1] for ax in row_axes)
        for ax in row_axes:
            ax.set_ylim(low, high)
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=min(6, len(handles))
    )
    return figure


SECTION = Section(
    "how-training-went",
    "How did training go?",
    sentences=(sentence,),
    figures=(_draw_training, _draw_training_by_depth, _draw_pretraining),
    data_tables=(training_tables,),
)
