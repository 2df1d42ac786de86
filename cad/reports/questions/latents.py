"""What is in the latents?  Hidden places read out by a linear probe, and the attention they get."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cad.reports.data import ModelResult, ProbedModel, Study, probe_tables, probed_models
from cad.reports.plotting import (
    DASHES,
    DOTTED,
    INK,
    MARKERS,
    MUTED,
    PALETTE,
    SMALL,
    Drawing,
    Hover,
    new_figure,
    render,
    wrap,
)
from cad.reports.questions.section import Section, left_out

_MOST_PANELS = 12
_MOST_COLUMNS = 4
_TRAINED, _UNTRAINED = PALETTE[0], PALETTE[1]


def sentence(study: Study) -> str:
    """How well the best model's latents give away the hidden place, and how much attention they get."""
    probed = probed_models(study)
    if not probed:
        return ""
    lead = _lead(probed)
    first, last = lead.counts[0], lead.counts[-1]
    texts = []
    for i, name in enumerate(lead.targets):
        # Mean over seeds: (counts, tasks).
        trained, untrained = (lead.distances(i, of).mean(axis=0) for of in ("trained", "untrained"))
        text = (
            f"A linear probe of the latents of {lead.model.label} finds a {study.task_kind} task's {name} to "
            f"{trained[0].mean():.1f} moves after {_compressions(first)}"
        )
        if last > first:
            text += f" and to {trained[-1].mean():.1f} after {last}"
        closer = (untrained - trained).mean(axis=0)  # (tasks,)
        difference = float(closer.mean())
        text += (
            f" (an untrained encoder over the same roll-outs: {untrained[0].mean():.1f}"
            + (f" and {untrained[-1].mean():.1f}" if last > first else "")
            + f"; the mean {name} of the training tasks: {lead.chance(i).mean():.1f}). On average over all "
            f"numbers of compressions the trained latents place {'them' if name == 'goals' else 'it'} "
            f"{_how_much_closer(difference)}, and "
            f"closer on {int((closer > 0).sum())} of {len(closer)} {study.task_kind} tasks."
        )
        texts.append(text)
    return " ".join([*texts, _attention_sentence(probed)])


def _how_much_closer(moves: float) -> str:
    size = f"{abs(moves):.1f}"
    if float(size) == 0:
        return "as close as the untrained ones, to a tenth of a move"
    return f"{size} moves {'closer' if moves > 0 else 'farther'} than the untrained ones"


def _attention_sentence(probed: Sequence[ProbedModel]) -> str:
    """How much attention the latents of the best of some models get."""
    lead = _lead(probed)
    shares, uniform, last = lead.attention, lead.probes[0].uniform, lead.counts[-1]
    return (
        f"After {_compressions(last)} a step of {lead.model.label} gives {shares[:, -1].min():.0%} to "
        f"{shares[:, -1].max():.0%} of its attention to the latents, depending on the layer "
        f"({shares[:, 0].min():.0%} to {shares[:, 0].max():.0%} before the first compression); equal weights "
        f"would give {uniform:.0%}."
    )


def _lead(probed: Sequence[ProbedModel]) -> ProbedModel:
    return max(probed, key=lambda entry: entry.model.score or 0.0)


def _compressions(count: int) -> str:
    return "one compression" if count == 1 else f"{count} compressions"


def _draw_probe(study: Study) -> Drawing | None:
    """Distance of the places that a probe reads out of latents, by compressions; None without any."""
    entries = [(entry, i) for entry in probed_models(study) for i in range(len(entry.targets))]
    if not entries:
        return None
    more, entries = len(entries[_MOST_PANELS:]), entries[:_MOST_PANELS]
    figure, axes, columns = _panels(len(entries), [entry.model for entry, _ in entries])
    hover = Hover()
    several = any(len(entry.targets) > 1 for entry, _ in entries)
    top = 0.0
    for ax, (entry, i) in zip(axes, entries, strict=True):
        at = np.arange(len(entry.counts))
        chance = float(entry.chance(i).mean())
        ax.axhline(chance, color=MUTED, linewidth=0.95, linestyle=DOTTED)
        title = entry.model.label + (f": {entry.targets[i]}" if several else "")
        for of, colour, marker, dash in (
            ("untrained", _UNTRAINED, "s", DASHES[1]),
            ("trained", _TRAINED, "o", "-"),
        ):
            by_seed = entry.distances(i, of).mean(axis=2)  # (seeds, counts)
            if len(by_seed) > 1:
                ax.plot(at, by_seed.T, color=colour, linewidth=0.55, alpha=0.6)
            mean = by_seed.mean(axis=0)
            ax.plot(at, mean, color=colour, marker=marker, markersize=3.1, linestyle=dash)
            hover.points(
                ax, at, mean, name=f"{title}, {of} encoder", x_name="compressions so far",
                y_name="distance, moves", x_words=list(map(str, entry.counts)),
            )  # fmt: skip
            top = max(top, float(by_seed.max()))
        top = max(top, chance)
        _dress(ax, title, entry.counts)
    for ax in axes:
        ax.set_ylim(0, 1.08 * top)
    _label_outer(axes, columns, "distance, moves")
    words = "mean place of the training tasks" if several else "mean goal of the training tasks"
    _legend(
        figure,
        [
            Line2D([], [], color=_TRAINED, marker="o", markersize=3.1),
            Line2D([], [], color=_UNTRAINED, marker="s", markersize=3.1, linestyle=DASHES[1]),
            Line2D([], [], color=MUTED, linestyle=DOTTED),
        ],
        ["probe of the latents", "probe of an untrained encoder's latents", words],
    )
    probe = entries[0][0].probes[0]
    return Drawing(
        "latents",
        "The hidden place, read out of the latents",
        "How far from the true goal (or key, or door; the mean of several goals) a linear probe places it, "
        f"in moves, in {study.task_kind} tasks; lower is better. Ridge regression in closed form, "
        f"the penalty chosen by leaving training tasks out. Fitted on {probe.fit_rollouts} roll-outs in each "
        f"of {probe.fit_tasks} training tasks, apart for each number of compressions. All lines see the same "
        "roll-outs: "
        f"untrained encoders (mean of {probe.untrained_encoders}) already mix the last steps, and an agent "
        "that has found its goal is on it, so only what is below that line is due to training. Thin "
        "lines: single seeds." + left_out(more, f"The first {_MOST_PANELS} panels"),
        "Small line charts, one a model, of the distance between probed and true place by number of "
        "compressions, for trained latents, untrained latents and the mean of the training tasks. "
        + sentence(study),
        ("latent_probe",),
        *render(figure, "latents", hover),
    )


def _draw_attention(study: Study) -> Drawing | None:
    """Share of attention that latents get, by layer and number of compressions; None without probes."""
    probed = probed_models(study)
    if not probed:
        return None
    summary = _attention_sentence(probed)
    more, probed = len(probed[_MOST_PANELS:]), probed[:_MOST_PANELS]
    figure, axes, columns = _panels(len(probed), [entry.model for entry in probed])
    hover = Hover()
    layers = max(len(entry.attention) for entry in probed)
    for ax, entry in zip(axes, probed, strict=True):
        at = np.arange(1 + len(entry.counts))
        ax.axhline(entry.probes[0].uniform, color=MUTED, linewidth=0.95, linestyle=DOTTED)
        for layer, shares in enumerate(entry.attention):
            ax.plot(at, shares, **_layer_look(layer), markersize=3.1)
            hover.points(
                ax, at, shares, name=f"{entry.model.label}, layer {layer + 1}", x_name="compressions so far",
                y_name="share on latents", x_words=["0", *map(str, entry.counts)],
            )  # fmt: skip
        _dress(ax, entry.model.label, (0, *entry.counts))
        ax.set_ylim(0, 1)
    _label_outer(axes, columns, "share on latents")
    _legend(
        figure,
        [
            *(Line2D([], [], **_layer_look(layer), markersize=3.1) for layer in range(layers)),
            Line2D([], [], color=MUTED, linestyle=DOTTED),
        ],
        [*(f"layer {layer + 1}" for layer in range(layers)), "equal weights"],
    )
    return Drawing(
        "attention",
        "Attention on the latents",
        "The share of its attention that the decoder's current step gives to the latents; the rest goes to "
        f"the window's steps. Mean over the steps of a whole window, heads, roll-outs, {study.task_kind} "
        "tasks and seeds. At 0 compressions the latents are learned constants. Dotted: the share if all "
        "positions got the same. Attention shows where a step looks, not what it uses."
        + left_out(more, f"The first {_MOST_PANELS} models"),
        "Small line charts, one a model, of the share of attention on latents by number of compressions, a "
        "line a decoder layer. " + summary,
        ("latent_attention",),
        *render(figure, "attention", hover),
    )


def _layer_look(layer: int) -> dict[str, Any]:
    return {"color": PALETTE[layer % len(PALETTE)], "marker": MARKERS[layer % len(MARKERS)]}


def _panels(n: int, models: Sequence[ModelResult]) -> tuple[Figure, list[Axes], int]:
    """Axes for ``n`` panels in columns; a column a number of latents where that makes whole rows."""
    latents = len({model.facts.n_latent for model in models})
    columns = latents if 1 < latents <= _MOST_COLUMNS and n % latents == 0 else min(3, n)
    rows = math.ceil(n / columns)
    figure = new_figure(0.7 + 1.45 * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for ax in axes[n:]:
        ax.set_visible(False)
    return figure, axes[:n], columns


def _dress(ax: Axes, title: str, counts: Sequence[int]) -> None:
    # Evenly spaced: the first compressions, where most happens, would otherwise overlap.
    ax.set_xticks(np.arange(len(counts)), [str(count) for count in counts], fontsize=6.2)
    ax.set_xlim(-0.4, len(counts) - 0.6)
    ax.set_title(wrap(title, 28), fontsize=SMALL)


def _label_outer(axes: Sequence[Axes], columns: int, text: str) -> None:
    for i, ax in enumerate(axes):
        if i % columns == 0:
            ax.set_ylabel(text)
        if i + columns >= len(axes):
            ax.set_xlabel("compressions so far")


def _legend(figure: Figure, handles: list[Line2D], labels: list[str]) -> None:
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)), labelcolor=INK)


SECTION = Section(
    "what-latents-hold",
    "What is in the latents?",
    sentences=(sentence,),
    figures=(_draw_probe, _draw_attention),
    data_tables=(probe_tables,),
)
