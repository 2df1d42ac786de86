"""Several experiments side by side: models that stand under one name in more than one of them."""

from __future__ import annotations

import math

from cad.reports.aggregate import Group, Study
from cad.reports.differences import paired
from cad.reports.style import MUTED, PALETTE, Drawing, new_figure, render, wrap

COLUMNS = ("model", "experiment", "mean", "low_95", "high_95", "n_seeds", "minus", "difference",
           "difference_low_95", "difference_high_95", "n_shared_seeds")  # fmt: skip
MOST_ROWS = 30


def experiments(study: Study) -> tuple[str, ...]:
    """Names of the experiments that a report compares, in order; none in a report on one."""
    return tuple(dict.fromkeys(e for cell in study.cells if (e := cell.result.experiment)))


def own_label(group: Group) -> str:
    """A group's label without the experiment's name before it."""
    return group.label.removeprefix(f"{group.cells[0].result.experiment}: ")


def shared(study: Study) -> dict[str, dict[str, Group]]:
    """Label -> experiment -> group with a result, of the labels that several experiments have."""
    found: dict[str, dict[str, Group]] = {}
    for group in study.scored if study.comparable and experiments(study) else ():
        found.setdefault(own_label(group), {}).setdefault(group.cells[0].result.experiment, group)
    return {label: groups for label, groups in found.items() if len(groups) > 1}


def _difference(group: Group, first: Group) -> tuple[float | None, float | None, float | None, int]:
    """Mean and ends of the interval of a paired difference, and how many seeds both have."""
    seeds = tuple(seed for seed in group.seeds if seed in first.seeds)
    if group is first or not seeds:
        return None, None, None, len(seeds)
    mean, low, high, _ = paired(group.scores_of(seeds), first.scores_of(seeds))
    return mean, low if math.isfinite(low) else None, high if math.isfinite(high) else None, len(seeds)


def rows(study: Study) -> list[tuple[str | int | float | None, ...]]:
    """Of the table with :data:`COLUMNS`."""
    return [
        (label, experiment, group.score,
         *(end if math.isfinite(end) else None for end in group.score_interval), len(group.done),
         next(iter(groups)), *_difference(group, next(iter(groups.values()))))
        for label, groups in shared(study).items()
        for experiment, group in groups.items()
    ]  # fmt: skip


def sentence(study: Study) -> str:
    """What the experiments share, and where they are furthest apart."""
    names, both = experiments(study), shared(study)
    if not names:
        return ""
    text = f"{' and '.join(names)} share {len(both)} model{'' if len(both) == 1 else 's'} by name"
    found = [row for row in rows(study) if row[7] is not None]
    if not found:
        return text + "."
    label, experiment, *_, first, difference, low, high, seeds = max(
        found, key=lambda row: abs(float(row[7] or 0))
    )
    if not difference:
        return f"{text}, with equal returns wherever they share seeds."
    ends = f", 95% interval {low:+.3f} to {high:+.3f}" if low is not None else ""
    return (
        f"{text}; furthest apart is {label}: {difference:+.3f} in {experiment} against {first} "
        f"({seeds} shared seed{'' if seeds == 1 else 's'}{ends})."
    )


def draw_side_by_side(study: Study) -> Drawing | None:
    """A row a shared model, a mark an experiment; None where none is shared."""
    both = dict(list(shared(study).items())[:MOST_ROWS])
    if not both:
        return None
    names = experiments(study)
    figure = new_figure(1.3 + 0.42 * len(both))
    ax = figure.subplots()
    for row, groups in enumerate(both.values()):
        at = len(both) - 1 - row
        ax.plot(
            [g.score or 0.0 for g in groups.values()], [at] * len(groups), color=MUTED, linewidth=1, zorder=1
        )
        for experiment, group in groups.items():
            k = names.index(experiment)
            height = at + 0.16 * ((len(names) - 1) / 2 - k)
            ax.plot(group.score_interval, [height] * 2, color=PALETTE[k % len(PALETTE)], linewidth=1.6)
            ax.plot(
                [group.score or 0.0], [height], "osD^vP"[k % 6], color=PALETTE[k % len(PALETTE)],
                markersize=7, label=None if row else wrap(experiment, 40),
            )  # fmt: skip
    ax.set_yticks(range(len(both)), [wrap(label, 40) for label in reversed(both)], fontsize=8.5)
    ax.set_ylim(-0.6, len(both) - 0.4)
    ax.set_xlabel("return / optimum, last episodes")
    ax.grid(axis="y", visible=False)
    figure.legend(loc="outside lower center", ncols=min(4, len(names)))
    left = len(shared(study)) - len(both)
    return Drawing(
        "side_by_side",
        "The same models in each experiment",
        "Models that stand under one name in several experiments; what differs in their settings is in the "
        "table at the end. Lines: 95% bootstrap intervals."
        + (f" {left} further models are in the CSV file." if left else ""),
        "Dot chart of return by model and experiment. " + sentence(study),
        ("side_by_side",),
        *render(figure, "side_by_side"),
    )
