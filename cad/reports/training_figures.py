"""How training went: loss, accuracy, gradient norm, validation return, pre-training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from cad.reports.aggregate import CellSummary, Study
from cad.reports.featured import LEGEND_WIDTH, featured_styles
from cad.reports.results import CellResult
from cad.reports.style import INK, PALETTE, Drawing, is_crowded, line_styles, new_figure, render, wrap

_MOST_DEPTH_PANELS = 8
_MOST_LINES = 60
_MOST_GROUPS = 12


Lines = Sequence[Mapping[str, Any]] | None


def series(lines: Lines, metric: str) -> tuple[list[float], list[float]]:
    """Steps and values of one metric; lines without it, or with a value that is not finite, are left out."""
    pairs = [
        (float(line["step"]), float(line[metric]))
        for line in lines or ()
        if isinstance(line.get("step"), int | float) and isinstance(line.get(metric), int | float)
    ]
    pairs = [(step, value) for step, value in pairs if math.isfinite(value)]
    return [step for step, _ in pairs], [value for _, value in pairs]


def by_depth(cell: CellSummary, metric: str) -> dict[int, str]:
    """Depth -> metric name, of the metrics ``<metric>_depth_<k>`` that a cell's training wrote."""
    prefix = f"{metric}_depth_"
    names = {name for line in cell.result.metrics or () for name in line if name.startswith(prefix)}
    depths = {int(name[len(prefix) :]): name for name in names if name[len(prefix) :].isdigit()}
    return dict(sorted(depths.items()))


def _left_out(name: str) -> bool:
    """Timings, which no second run repeats, and what the config says."""
    return name.endswith("_per_second") or name in ("step", "learning_rate", "seconds")


def metric_table(study: Study, of: Callable[[CellResult], Lines]) -> tuple[tuple[str, ...], list[Any]]:
    """Columns and rows of every metric at every step that some cell wrote; unknown is None."""
    everything = [(cell, of(cell.result) or ()) for cell in study.cells]
    names = dict.fromkeys(name for _, lines in everything for line in lines for name in line)
    metrics = [name for name in names if not _left_out(name)]
    rows = [
        (
            cell.result.label,
            cell.result.config.seed,
            line.get("step"),
            *(_number(line.get(m)) for m in metrics),
        )
        for cell, lines in everything
        for line in lines
    ]
    return ("label", "seed", "step", *metrics), rows


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def sentence(study: Study) -> str:
    """Where losses and accuracies ended, and what did not get that far."""
    lead = study.best(ad=False) or study.best(ad=True)
    texts = []
    for group in dict.fromkeys([lead, study.best(ad=True)]):
        if group is None:
            continue
        ends = [
            [values[-1] for cell in group.done if (values := series(cell.result.metrics, name)[1])]
            for name in ("loss", "accuracy")
        ]
        if all(ends):
            loss, accuracy = (sum(values) / len(values) for values in ends)
            texts.append(f"{group.label} ends training at loss {loss:.3f} and accuracy {accuracy:.3f}.")
    if lead is not None and lead.depth:
        deepest = [
            (values[-1], shallow[-1])
            for cell in lead.done
            if (names := list(by_depth(cell, "accuracy").values()))
            and (values := series(cell.result.metrics, names[-1])[1])
            and (shallow := series(cell.result.metrics, names[0])[1])
        ]
        if deepest:
            deep, shallow_mean = (sum(values) / len(deepest) for values in zip(*deepest, strict=True))
            texts.append(
                f"At depth {lead.depth} the accuracy of {lead.label} is {deep:.3f}, at depth 0, without "
                f"latents, {shallow_mean:.3f}."
            )
    found = [
        values[-1] for cell in study.cells if (values := series(cell.result.pretrain_metrics, "accuracy")[1])
    ]
    if found:
        low, high = min(found), max(found)
        span = f"{low:.3f}" if high - low < 0.0005 else f"{low:.3f} to {high:.3f}"
        texts.append(f"Pre-training ends at a reconstruction accuracy of {span}.")
    return " ".join(texts)


_TRAINING = (
    ("loss", "loss, nats an action"),
    ("accuracy", "accuracy, share of actions"),
    ("gradient_norm", "gradient norm, before clipping"),
    ("validation_return", "validation return / optimum"),
)
_PRETRAINING = (
    ("loss", "pre-training loss"),
    ("accuracy", "accuracy, share of fields"),
    ("correlation", "correlation with the embeddings"),
    ("latent_variance", "variance of the latents"),
)


def draw_training(study: Study) -> Drawing | None:
    """Loss, accuracy, gradient norm, validation return of every training; None where none is stored."""
    drawn = _draw_lines(study, _TRAINING, lambda result: result.metrics)
    if drawn is None:
        return None
    figure, note = drawn
    return Drawing(
        "training",
        "How training went",
        "Loss and accuracy on training batches, mean over all supervised actions; the gradient's norm before "
        "it is clipped (logarithmic); return on the validation tasks, which are split off the training "
        f"tasks. One line a cell and seed, failed ones included.{note}",
        "Line charts of loss, accuracy, gradient norm and validation return by update. " + sentence(study),
        ("training",),
        *render(figure, "training"),
    )


def draw_pretraining(study: Study) -> Drawing | None:
    """Loss and accuracy of every pre-training; None where there was none."""
    drawn = _draw_lines(study, _PRETRAINING, lambda result: result.pretrain_metrics)
    if drawn is None:
        return None
    figure, note = drawn
    return Drawing(
        "pretraining",
        "How pre-training went",
        "Reconstruction of compressed steps from the latents alone, mean over depths and fields, and how "
        "much latents vary between histories: at nothing they would say nothing. Models that share one "
        f"share a line.{note}",
        "Line charts of pre-training loss, accuracy and variance of latents by update.",
        ("pretraining",),
        *render(figure, "pretraining"),
    )


def _draw_lines(
    study: Study, metrics: Sequence[tuple[str, str]], of: Callable[[CellResult], Lines]
) -> tuple[Figure, str] | None:
    """A panel a metric that some cell has, and what the caption says of lines left out."""
    cells = [(group, cell) for group in study.groups for cell in group.cells if of(cell.result)]
    panels = [panel for panel in metrics if any(series(of(cell.result), panel[0])[0] for _, cell in cells)]
    if not panels:
        return None
    note, featured, styles = "", study.featured(_MOST_GROUPS), line_styles(study)
    if len(cells) > _MOST_LINES:
        note = f" Of {len(cells)} trainings those of the references and best models; all are in the CSV file."
        cells = [(group, cell) for group, cell in cells if group in featured]
        styles = featured_styles(study, featured)
    crowded = is_crowded(study)
    columns = len(panels) if len(panels) != 4 else 2
    blocks = math.ceil(len(panels) / columns)
    figure = new_figure(1.0 + 2.6 * blocks)
    axes = figure.subplots(blocks, columns, squeeze=False).ravel()
    handles: dict[str, Artist] = {}
    for ax, (metric, text) in zip(axes, panels, strict=True):
        drawn = set()
        for group, cell in cells:
            style, (steps, values) = styles[group.label], series(of(cell.result), metric)
            if not steps or (points := (tuple(steps), tuple(values))) in drawn:
                continue
            drawn.add(points)
            marked = metric == "validation_return" and not crowded
            (line,) = ax.plot(
                steps, values, color=style.colour, linestyle=style.dash, linewidth=0.8 if crowded else 1.2,
                marker=style.marker if marked else None, markersize=4,
            )  # fmt: skip
            handles.setdefault(style.legend, line)
        ax.set_xlabel("update")
        ax.set_xlim(left=0)
        ax.set_title(text, fontsize=9.5, fontweight="normal")
        if metric == "gradient_norm":
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
            ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            ax.yaxis.set_minor_formatter(NullFormatter())
        elif metric in ("validation_return", "latent_variance"):
            ax.set_ylim(bottom=0)
    figure.legend(
        list(handles.values()), [wrap(label, LEGEND_WIDTH) for label in handles], loc="outside lower center",
        ncols=min(3, len(handles)),
    )  # fmt: skip
    return figure, note


def draw_training_by_depth(study: Study) -> Drawing | None:
    """Loss and accuracy by compression depth, for compressed models; None where not stored."""
    groups = [
        group
        for group in study.groups
        if group.config.model.kind == "compressed_ad"
        and any(len(by_depth(cell, "loss")) > 1 for cell in group.cells)
    ]
    if not groups:
        return None
    left = max(0, len(groups) - _MOST_DEPTH_PANELS)
    groups = sorted(groups, key=lambda group: -(group.score or 0.0))[:_MOST_DEPTH_PANELS]
    columns = min(4, len(groups))
    blocks = math.ceil(len(groups) / columns)
    figure = new_figure(0.5 + 3.6 * blocks, max(5.0, 2.25 * columns))
    axes = figure.subplots(2 * blocks, columns, squeeze=False, sharex=True)
    for ax in axes.flat:
        ax.set_visible(False)
    handles: dict[str, Artist] = {}
    for i, group in enumerate(groups):
        block, column = divmod(i, columns)
        for row, metric in enumerate(("loss", "accuracy")):
            ax = axes[2 * block + row, column]
            ax.set_visible(True)
            for cell in group.cells:
                for depth, name in by_depth(cell, metric).items():
                    colour = INK if depth == 0 else PALETTE[(depth - 1) % len(PALETTE)]
                    (line,) = ax.plot(*series(cell.result.metrics, name), color=colour, linewidth=1.2)
                    handles.setdefault(f"depth {depth}", line)
            ax.set_ylabel({"loss": "loss, nats", "accuracy": "accuracy"}[metric] if column == 0 else "")
            if row == 0:
                ax.set_title(wrap(group.label, 28), fontsize=8.5)
            elif block == blocks - 1 or i + columns >= len(groups):
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
    screen, paper = render(figure, "training_by_depth")
    return Drawing(
        "training_by_depth",
        "Loss and accuracy by compression depth",
        "Depth k: actions that are predicted with latents which were folded k times (0: none yet). A depth "
        "that lags behind depth 0 is one where the latents lose what the decoder needs."
        + (f" The best models; {left} further are in the CSV file." if left else ""),
        "Line charts of loss and accuracy by update, one line a compression depth, one column a model.",
        ("training",),
        screen,
        paper,
    )
