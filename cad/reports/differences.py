"""Paired differences from a reference, on the same seeds and the same tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from cad.reports.aggregate import FEW_SEEDS, Group, Study
from cad.reports.results import FloatArray
from cad.reports.statistics import holm, mean_interval, p_values
from cad.reports.style import INK, MUTED, SURFACE, Drawing, line_styles, new_figure, render, wrap

MOST_ROWS = 30
ALPHA = 0.05
COLUMNS = (
    "reference", "label", "difference", "low_95", "high_95", "p_holm", "n_seeds", "seeds",
    "differences_by_seed",
)  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """One model minus a reference: normalised return over the last episodes."""

    group: Group
    reference: Group
    seeds: tuple[int, ...]  # that both have
    by_seed: tuple[float, ...]
    mean: float
    low: float
    high: float
    p_holm: float | None  # adjusted for all models being compared; None with too few seeds to say

    @property
    def claimed(self) -> bool:
        """Whether a difference is claimed: with more than three seeds, and all comparisons counted."""
        return self.p_holm is not None and self.p_holm < ALPHA


def paired(first: FloatArray, second: FloatArray) -> tuple[float, float, float, float | None]:
    """Mean difference of two (seeds, tasks), its 95% interval, and p where seeds are enough for one."""
    differences = first - second
    many = len(differences) > FEW_SEEDS
    low, high = mean_interval(differences[..., None], many)
    p = float(p_values(differences[..., None])[0]) if many and differences.shape[1] > 1 else None
    return float(differences.mean()), float(low[0]), float(high[0]), p


def differences_from(groups: Sequence[Group], reference: Group) -> list[Difference]:
    """Each group minus the reference, on the seeds that both have; groups without such are left out."""
    found = []
    for group in groups:
        seeds = tuple(seed for seed in group.seeds if seed in reference.seeds)
        if group is reference or not seeds:
            continue
        ours, theirs = group.scores_of(seeds), reference.scores_of(seeds)
        by_seed = tuple(float(value) for value in (ours - theirs).mean(axis=1))
        found.append(Difference(group, reference, seeds, by_seed, *paired(ours, theirs)))
    tested = [i for i, difference in enumerate(found) if difference.p_holm is not None]
    for i, p in zip(tested, holm([found[i].p_holm or 0.0 for i in tested]), strict=True):
        found[i] = replace(found[i], p_holm=p)
    return found


@lru_cache(maxsize=1)  # figure, table, sentence and CSV ask for the same
def all_differences(study: Study) -> tuple[Difference, ...]:
    """Every model minus every reference; empty where nothing can be compared."""
    if not study.comparable:
        return ()
    return tuple(d for reference in study.references for d in differences_from(study.scored, reference))


def rows(study: Study) -> list[tuple[str | int | float | None, ...]]:
    """Of the table with :data:`COLUMNS`."""
    return [
        (d.reference.label, d.group.label, d.mean, *(v if np.isfinite(v) else None for v in (d.low, d.high)),
         d.p_holm, len(d.seeds), " ".join(map(str, d.seeds)), " ".join(map(repr, d.by_seed)))
        for d in all_differences(study)
    ]  # fmt: skip


def _in_words(difference: Difference) -> str:
    d = difference
    text = f"{d.group.label} is {'above' if d.mean >= 0 else 'below'} it by {abs(d.mean):.3f}"
    if np.isfinite(d.low):
        text += f" (95% interval {d.low:+.3f} to {d.high:+.3f})"
    if d.p_holm is None:
        higher = sum(value > 0 for value in d.by_seed)
        return text + f", in {higher} of {len(d.seeds)} seeds above"
    return text + f" (p = {d.p_holm:.2g}, corrected for all comparisons)"


def sentence(study: Study) -> str:
    """What differs from each reference, and whether that can be claimed."""
    texts = []
    for reference in study.references:
        found = [d for d in all_differences(study) if d.reference is reference]
        if not found:
            continue
        most = max(len(d.group.cells) for d in found)
        shown = [d for d in found if len(d.group.cells) == most and not d.group.is_ad]
        lead = max(shown, key=lambda d: d.mean, default=found[0])
        text = f"Paired with {reference.label} on the same seeds and tasks, {_in_words(lead)}"
        tested = [d for d in found if d.p_holm is not None]
        if not tested:
            text += "; with three seeds or fewer no significance is claimed."
        else:
            above = sum(d.claimed and d.mean > 0 for d in tested)
            below = sum(d.claimed and d.mean < 0 for d in tested)
            text += f"; of {len(tested)} models {above} are above it and {below} below it at the 5% level"
            text += f", {len(tested) - above - below} cannot be told from it."
        texts.append(text)
    return " ".join(texts)


def draw_differences(study: Study) -> Drawing | None:
    """A row a model, a panel a reference; None without a reference or another model."""
    by_reference = [
        (reference, found)
        for reference in study.references
        if (found := [d for d in all_differences(study) if d.reference is reference])
    ]
    if not by_reference:
        return None
    order = sorted({d.group.label: d.mean for d in by_reference[0][1]}.items(), key=lambda item: item[1])
    labels = [label for label, _ in order][-MOST_ROWS:]
    labels += [
        d.group.label for _, found in by_reference[1:] for d in found if d.group.label not in dict(order)
    ]
    place = {label: i for i, label in enumerate(labels)}
    styles = line_styles(study)
    wrapped = [wrap(label, 40) for label in labels]
    row = max(0.34, *(0.06 + 0.16 * (text.count("\n") + 1) for text in wrapped))
    figure = new_figure(1.2 + row * len(labels))
    axes = figure.subplots(1, len(by_reference), sharey=True, squeeze=False)[0]
    for ax, (reference, found) in zip(axes, by_reference, strict=True):
        ax.axvline(0, color=MUTED, linewidth=1.0)
        for d in found:
            if d.group.label not in place:
                continue
            at, colour = place[d.group.label], styles[d.group.label].colour
            ax.plot([d.low, d.high], [at, at], color=colour, linewidth=1.8)
            if 1 < len(d.seeds) <= FEW_SEEDS:
                ax.plot(d.by_seed, [at - 0.22] * len(d.by_seed), "|", color=colour, markersize=7)
            ax.plot(
                d.mean, at, "o", markersize=7, color=colour if d.claimed or d.p_holm is None else SURFACE,
                markeredgecolor=colour, markeredgewidth=1.4,
            )  # fmt: skip
        ax.set_title(
            wrap(f"minus {reference.label}", 66 // len(by_reference)), fontsize=9.5, fontweight="normal"
        )
        ax.set_xlabel("difference in return / optimum")
        ax.set_ylim(-0.7, len(labels) - 0.4)
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(labels)), wrapped, fontsize=8.5, color=INK)
    screen, paper = render(figure, "differences")
    few = all(d.p_holm is None for _, found in by_reference for d in found)
    left = len(order) - len(labels)
    return Drawing(
        "differences",
        "Paired differences",
        "Normalised return over the last episodes minus the reference's, on the seeds and tasks that both "
        "have. Lines: 95% intervals of a joint bootstrap of "
        + ("tasks, the seeds as they are; ticks below: single seeds. " if few else "seeds and tasks. ")
        + (
            "No significance is claimed with three seeds or fewer."
            if few
            else "Filled: differs at the 5% level after Holm's correction for all models in the panel."
        )
        + (f" The {MOST_ROWS} highest; {left} further are in the CSV file." if left > 0 else ""),
        "Dot chart of paired differences with intervals. " + sentence(study),
        ("differences",),
        screen,
        paper,
    )
