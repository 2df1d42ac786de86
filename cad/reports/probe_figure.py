"""What the latents hold: a linear probe for hidden places, and the attention that latents get."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cad.evaluation.probe_result import LatentProbe
from cad.reports.aggregate import Group, Study
from cad.reports.results import FloatArray
from cad.reports.style import (
    DASHES,
    INK,
    MARKERS,
    MUTED,
    PALETTE,
    Drawing,
    new_figure,
    render,
    wrap,
)
from cad.reports.tables import Table, Value

MOST_GROUPS = 12  # of a figure; the tables have all
_MOST_COLUMNS = 4
_TRAINED, _UNTRAINED = PALETTE[0], PALETTE[1]
_CHANCE_DASH = (0, (1, 2))


@dataclass(frozen=True)
class ProbedGroup:
    """A group's cells that were probed behind the same compressions in the same tasks."""

    group: Group
    probes: tuple[LatentProbe, ...]
    seeds: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Numbers of compressions behind which latents were probed."""
        return self.probes[0].counts

    @property
    def targets(self) -> tuple[str, ...]:
        """The hidden places: goal, or key and door; none in permuted tasks."""
        return tuple(target.name for target in self.probes[0].targets)

    def distances(self, target: int, of: str) -> FloatArray:
        """(seeds, counts, tasks): moves between the place that was read out and the true one."""
        return np.array([getattr(probe.targets[target], of) for probe in self.probes])

    def chance(self, target: int) -> FloatArray:
        """(tasks,): moves to the mean of the training tasks' places."""
        mean: FloatArray = np.array([probe.targets[target].chance for probe in self.probes]).mean(axis=0)
        return mean

    @cached_property
    def attention(self) -> FloatArray:
        """(layers, 1 + counts): share of attention on latents, mean over seeds."""
        mean: FloatArray = np.array([probe.attention for probe in self.probes]).mean(axis=0)
        return mean


def probed_groups(study: Study) -> list[ProbedGroup]:
    """Groups with probed cells, in the experiment's order."""
    found = []
    for group in study.scored:
        cells = [(c.result.probe, c.result.config.seed) for c in group.done if c.result.probe is not None]
        if cells:
            probes, seeds = zip(*cells, strict=True)
            found.append(ProbedGroup(group, probes, seeds))
    return found


def probe_sentence(study: Study) -> str:
    """What the best group's latents tell of the hidden place, and how much attention they get."""
    probed = probed_groups(study)
    if not probed:
        return ""
    lead = _lead(probed)
    first, last = lead.counts[0], lead.counts[-1]
    texts = []
    for i, name in enumerate(lead.targets):
        # Mean over seeds: (counts, tasks).
        trained, untrained = (lead.distances(i, of).mean(axis=0) for of in ("trained", "untrained"))
        text = (
            f"A linear probe of the latents of {lead.group.label} finds a {study.task_kind} task's {name} to "
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
            f"numbers of compressions the trained latents place it {abs(difference):.1f} moves "
            f"{'closer' if difference >= 0 else 'farther'} than the untrained ones, and closer on "
            f"{int((closer > 0).sum())} of {len(closer)} {study.task_kind} tasks."
        )
        texts.append(text)
    return " ".join([*texts, attention_sentence(probed)])


def attention_sentence(probed: Sequence[ProbedGroup]) -> str:
    """How much attention the latents of the best of some groups get."""
    lead = _lead(probed)
    shares, uniform, last = lead.attention, lead.probes[0].uniform, lead.counts[-1]
    return (
        f"After {_compressions(last)} a step of {lead.group.label} gives {shares[:, -1].min():.0%} to "
        f"{shares[:, -1].max():.0%} of its attention to the latents, depending on the layer "
        f"({shares[:, 0].min():.0%} to {shares[:, 0].max():.0%} before the first compression); equal weights "
        f"would give {uniform:.0%}."
    )


def _lead(probed: Sequence[ProbedGroup]) -> ProbedGroup:
    return max(probed, key=lambda entry: entry.group.score or 0.0)


def _compressions(count: int) -> str:
    return "one compression" if count == 1 else f"{count} compressions"


def probe_tables(study: Study) -> dict[str, Table]:
    """The data of the figures, a row a seed; no table where nothing was probed."""
    probed = probed_groups(study)
    if not probed:
        return {}
    rows: list[tuple[Value, ...]] = []
    for entry in probed:
        for probe, seed in zip(entry.probes, entry.seeds, strict=True):
            for target in probe.targets:
                for k, count in enumerate(probe.counts):
                    rows += [
                        (entry.group.label, seed, target.name, count, task, *numbers)
                        for task, *numbers in zip(
                            probe.task_ids, target.trained[k], target.untrained[k], target.chance,
                            probe.found[k], strict=True,
                        )
                    ]  # fmt: skip
    attention: list[tuple[Value, ...]] = [
        (entry.group.label, seed, layer + 1, count, share, probe.uniform)
        for entry in probed
        for probe, seed in zip(entry.probes, entry.seeds, strict=True)
        for layer, shares in enumerate(probe.attention)
        for count, share in zip((0, *probe.counts), shares, strict=True)
    ]
    tables = {
        "latent_attention": Table(
            ("label", "seed", "layer", "compressions", "share_on_latents", "share_if_uniform"), attention
        )
    }
    if rows:
        tables["latent_probe"] = Table(
            ("label", "seed", "target", "compressions", "task_id", "moves_trained", "moves_untrained",
             "moves_chance", "share_rewarded_before"),
            rows,
        )  # fmt: skip
    return tables


def draw_probe(study: Study) -> Drawing | None:
    """Distance of the places that a probe reads out of latents, by compressions; None without any."""
    entries = [(entry, i) for entry in probed_groups(study) for i in range(len(entry.targets))]
    if not entries:
        return None
    left_out, entries = len(entries[MOST_GROUPS:]), entries[:MOST_GROUPS]
    figure, axes, columns = _panels(len(entries), [entry.group for entry, _ in entries])
    several = any(len(entry.targets) > 1 for entry, _ in entries)
    top = 0.0
    for ax, (entry, i) in zip(axes, entries, strict=True):
        at = np.arange(len(entry.counts))
        chance = float(entry.chance(i).mean())
        ax.axhline(chance, color=MUTED, linewidth=1.2, linestyle=_CHANCE_DASH)
        for of, colour, marker, dash in (
            ("untrained", _UNTRAINED, "s", DASHES[1]),
            ("trained", _TRAINED, "o", "-"),
        ):
            by_seed = entry.distances(i, of).mean(axis=2)  # (seeds, counts)
            if len(by_seed) > 1:
                ax.plot(at, by_seed.T, color=colour, linewidth=0.7, alpha=0.6)
            ax.plot(at, by_seed.mean(axis=0), color=colour, marker=marker, markersize=4, linestyle=dash)
            top = max(top, float(by_seed.max()))
        top = max(top, chance)
        title = entry.group.label + (f": {entry.targets[i]}" if several else "")
        _dress(ax, title, entry.counts)
    for ax in axes:
        ax.set_ylim(0, 1.08 * top)
    _label_outer(axes, columns, "distance, moves")
    words = "mean place of the training tasks" if several else "mean goal of the training tasks"
    _legend(
        figure,
        [
            Line2D([], [], color=_TRAINED, marker="o", markersize=4),
            Line2D([], [], color=_UNTRAINED, marker="s", markersize=4, linestyle=DASHES[1]),
            Line2D([], [], color=MUTED, linestyle=_CHANCE_DASH),
        ],
        ["probe of the latents", "probe of an untrained encoder's latents", words],
    )
    probe = entries[0][0].probes[0]
    screen, paper = render(figure, "latents")
    return Drawing(
        "latents",
        "The hidden place, read out of the latents",
        "How far from the true goal (or key, or door) a linear probe places it, in moves on the grid, in "
        f"{study.task_kind} tasks; lower is better. Ridge regression in closed form, its penalty chosen by "
        f"leaving training tasks out. Fitted on {probe.fit_rollouts} roll-outs in each of {probe.fit_tasks} "
        "training tasks, apart for each number of compressions. All lines see the same roll-outs: "
        f"untrained encoders (mean of {probe.untrained_encoders}) already mix the last steps, and an agent "
        "that has found its goal stands on it, so only what lies below that line is due to training. Thin "
        "lines: single seeds." + (f" {left_out} further panels are in the CSV file." if left_out else ""),
        "Small line charts, one a model, of the distance between probed and true place by number of "
        "compressions, for trained latents, untrained latents and the mean of the training tasks. "
        + probe_sentence(study),
        ("latent_probe",),
        screen,
        paper,
    )


def draw_attention(study: Study) -> Drawing | None:
    """Share of attention that latents get, by layer and number of compressions; None without probes."""
    probed = probed_groups(study)
    if not probed:
        return None
    told = attention_sentence(probed)
    left_out, probed = len(probed[MOST_GROUPS:]), probed[:MOST_GROUPS]
    figure, axes, columns = _panels(len(probed), [entry.group for entry in probed])
    layers = max(len(entry.attention) for entry in probed)
    for ax, entry in zip(axes, probed, strict=True):
        at = np.arange(1 + len(entry.counts))
        ax.axhline(entry.probes[0].uniform, color=MUTED, linewidth=1.2, linestyle=_CHANCE_DASH)
        for layer, shares in enumerate(entry.attention):
            ax.plot(at, shares, **_layer_look(layer), markersize=4)
        _dress(ax, entry.group.label, (0, *entry.counts))
        ax.set_ylim(0, 1)
    _label_outer(axes, columns, "share on latents")
    _legend(
        figure,
        [
            *(Line2D([], [], **_layer_look(layer), markersize=4) for layer in range(layers)),
            Line2D([], [], color=MUTED, linestyle=_CHANCE_DASH),
        ],
        [*(f"layer {layer + 1}" for layer in range(layers)), "equal weights"],
    )
    screen, paper = render(figure, "attention")
    return Drawing(
        "attention",
        "Attention on the latents",
        "The share of its attention that the decoder's current step gives to the latents; the rest goes to "
        f"the window's steps. Mean over the steps of a whole window, heads, roll-outs, {study.task_kind} "
        "tasks and seeds. At 0 compressions the latents are learned constants. Dotted: the share if all "
        "positions got the same. Attention says where a step looks, not what it takes from there."
        + (f" {left_out} further models are in the CSV file." if left_out else ""),
        "Small line charts, one a model, of the share of attention on latents by number of compressions, a "
        "line a decoder layer. " + told,
        ("latent_attention",),
        screen,
        paper,
    )


def _layer_look(layer: int) -> dict[str, Any]:
    return {"color": PALETTE[layer % len(PALETTE)], "marker": MARKERS[layer % len(MARKERS)]}


def _panels(n: int, groups: Sequence[Group]) -> tuple[Figure, list[Axes], int]:
    """Axes for ``n`` panels in columns; a column a number of latents where that makes whole rows."""
    latents = len({group.n_latent for group in groups})
    columns = latents if 1 < latents <= _MOST_COLUMNS and n % latents == 0 else min(3, n)
    rows = math.ceil(n / columns)
    figure = new_figure(0.9 + 1.85 * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for ax in axes[n:]:
        ax.set_visible(False)
    return figure, axes[:n], columns


def _dress(ax: Axes, title: str, counts: Sequence[int]) -> None:
    # Evenly spaced: the first compressions, where most happens, would stand on one another.
    ax.set_xticks(np.arange(len(counts)), [str(count) for count in counts], fontsize=8)
    ax.set_xlim(-0.4, len(counts) - 0.6)
    ax.set_title(wrap(title, 28), fontsize=8.5)


def _label_outer(axes: Sequence[Axes], columns: int, text: str) -> None:
    for i, ax in enumerate(axes):
        if i % columns == 0:
            ax.set_ylabel(text)
        if i + columns >= len(axes):
            ax.set_xlabel("compressions so far")


def _legend(figure: Figure, handles: list[Line2D], labels: list[str]) -> None:
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)), labelcolor=INK)
