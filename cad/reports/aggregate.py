"""Pure numbers: roll-outs are averaged first, then tasks, then seeds; nothing is dropped in silence.

A return is normalised by the optimum of its own task before anything is averaged over tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from cad.config.schema import Config
from cad.errors import CadError, UsageError
from cad.reports.cells import (
    LAST_EPISODES,
    CellSummary,
    TaskScore,
    history_episodes,
    last_episodes,
    summarise_cell,
)
from cad.reports.results import CellResult, FloatArray, SourceCurve
from cad.reports.rosters import cut_to_shared, roster_of
from cad.reports.statistics import iqm, iqm_interval, mean_interval

__all__ = [
    "FEW_SEEDS",
    "LAST_EPISODES",
    "CellSummary",
    "Group",
    "Panel",
    "Study",
    "TaskScore",
    "Unequal",
    "differing_keys",
    "flatten",
    "grid_panels",
    "group_cells",
    "last_episodes",
    "make_study",
]

Unequal = Literal["apart", "refuse", "cut"]

FEW_SEEDS = 3  # up to here single seeds are drawn: no test on three pairs can go below p = 0.25


@dataclass(frozen=True, eq=False)
class Group:
    """Cells that differ by their seed only: one line of the report."""

    label: str
    arm: str
    config: Config  # with seed 0
    cells: tuple[CellSummary, ...]

    @property
    def is_ad(self) -> bool:
        """Whether it is the uncompressed reference."""
        return self.config.model.kind == "ad"

    @property
    def depth(self) -> int | None:
        """Compression depth of training; None without latents."""
        model = self.config.model
        return model.max_compression_depth if model.has_latents else None

    @property
    def n_latent(self) -> int | None:
        """Latent tokens; None for models without."""
        return self.config.model.n_latent if self.config.model.has_latents else None

    @property
    def window(self) -> int:
        """Steps that the decoder sees uncompressed."""
        return self.config.model.uncompressed_steps

    @cached_property
    def done(self) -> tuple[CellSummary, ...]:
        """The cells that count."""
        return tuple(cell for cell in self.cells if cell.done)

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of :attr:`done`."""
        return tuple(cell.result.config.seed for cell in self.done)

    def scores_of(self, seeds: Sequence[int]) -> FloatArray:
        """:attr:`scores` of some seeds, tasks in the order of their ids: models can be paired."""
        rows = [self.seeds.index(seed) for seed in seeds]
        order = np.argsort(self.done[0].result.task_ids, kind="stable")
        scores = self.scores[rows]
        return scores[:, order] if len(order) > 1 else scores  # one task: the columns are roll-outs

    @cached_property
    def score(self) -> float | None:
        """Mean over the done seeds of normalised_last10; None where there is none."""
        scores = self.seed_scores
        return float(np.mean(scores)) if scores else None

    @property
    def seed_scores(self) -> list[float]:
        """normalised_last10 of each done seed."""
        return [cell.normalised_last10 for cell in self.done if cell.normalised_last10 is not None]

    @cached_property
    def normalised(self) -> FloatArray:
        """(seeds, tasks, rollouts, episodes) of the done cells, of which there must be one."""
        return np.stack([cell.normalised for cell in self.done if cell.normalised is not None])

    @cached_property
    def seed_curves(self) -> FloatArray:
        """(seeds, episodes): mean over roll-outs, then tasks."""
        curves: FloatArray = self.normalised.mean(axis=2).mean(axis=1)
        return curves

    @cached_property
    def curve(self) -> FloatArray:
        """(episodes,): mean over roll-outs, tasks, seeds."""
        curve: FloatArray = self.seed_curves.mean(axis=0)
        return curve

    @cached_property
    def units(self) -> FloatArray:
        """(seeds, tasks, episodes): mean over roll-outs; with one task alone its roll-outs in its place."""
        values = self.normalised
        units: FloatArray = values[:, 0] if values.shape[1] == 1 else values.mean(axis=2)
        return units

    @cached_property
    def scores(self) -> FloatArray:
        """(seeds, tasks): mean over the last episodes of :attr:`units`."""
        scores: FloatArray = self.units[:, :, -last_episodes(self.units.shape[2]) :].mean(axis=2)
        return scores

    @property
    def many_seeds(self) -> bool:
        """Whether there are seeds enough to say how training varies."""
        return len(self.done) > FEW_SEEDS

    def interval(self, values: FloatArray) -> tuple[FloatArray, FloatArray]:
        """95% interval of the mean of (seeds, tasks, n) normalised returns: two (n,), within 0 and 1."""
        low, high = mean_interval(values, self.many_seeds)
        # A stretched interval may leave what a return can be.
        return np.maximum(low, min(0.0, values.min())), np.minimum(high, max(1.0, values.max()))

    @cached_property
    def band(self) -> tuple[FloatArray, FloatArray]:
        """95% interval of :attr:`curve`."""
        return self.interval(self.units)

    @cached_property
    def score_interval(self) -> tuple[float, float]:
        """95% interval of :attr:`score`."""
        low, high = self.interval(self.scores[..., None])
        return float(low[0]), float(high[0])

    @cached_property
    def iqm(self) -> float:
        """Interquartile mean over seeds and tasks of the last episodes' returns."""
        return iqm(self.scores)

    @cached_property
    def iqm_interval(self) -> tuple[float, float]:
        """95% interval of :attr:`iqm`."""
        low, high = iqm_interval(self.scores, self.many_seeds)
        return max(low, min(0.0, self.scores.min())), min(high, max(1.0, self.scores.max()))

    @property
    def history(self) -> int:
        """Episodes of a source history: those after it are beyond what training saw."""
        return history_episodes(self.config)

    @cached_property
    def history_scores(self) -> FloatArray | None:
        """Like :attr:`scores`, at the end of as many episodes as a history has; None with fewer."""
        if self.units.shape[2] < self.history:
            return None
        scores: FloatArray = self.units[:, :, max(0, self.history - LAST_EPISODES) : self.history].mean(
            axis=2
        )
        return scores

    @cached_property
    def task_scores(self) -> tuple[TaskScore, ...]:
        """Per task, means over the done seeds."""
        by_seed = np.array(
            [[(task.normalised_last10, task.never_found) for task in cell.per_task] for cell in self.done]
        )
        first = self.done[0].per_task
        return tuple(
            TaskScore(task.task_id, task.goal, task.optimum, float(score), float(never))
            for task, (score, never) in zip(first, by_seed.mean(axis=0), strict=True)
        )

    def mean(self, quantity: Callable[[CellResult], float | None]) -> float | None:
        """Mean of a cost over the done seeds that know it."""
        values = [value for cell in self.done if (value := quantity(cell.result)) is not None]
        return float(np.mean(values)) if values and all(map(math.isfinite, values)) else None


def group_cells(cells: Sequence[CellSummary]) -> tuple[Group, ...]:
    """Cells by label and config (the seed aside), in order of appearance.

    Raises :class:`CadError` if one cell is given twice, which would count it twice.
    """
    members: dict[tuple[str, str, str], list[CellSummary]] = {}
    for cell in cells:
        result = cell.result
        shape = "" if cell.normalised is None else repr((cell.normalised.shape, result.task_ids))
        same = result.config.model_copy(update={"seed": 0}).model_dump_json()
        members.setdefault((result.label, same, shape), []).append(cell)
    for label, same, shape in list(members):
        # A missing seed stands beside its done siblings, whatever the shape of their returns.
        homes = [key for key in members if key[:2] == (label, same) and key[2]]
        if not shape and homes:
            members[homes[0]].extend(members.pop((label, same, shape)))
    for (label, _, _), group in members.items():
        seeds = [cell.result.config.seed for cell in group]
        if len(set(seeds)) != len(seeds):
            raise CadError(f"two results of cell {label!r} with the same seed; seeds: {sorted(seeds)}")
    return tuple(
        Group(
            label=label,
            arm=group[0].result.arm,
            config=group[0].result.config.model_copy(update={"seed": 0}),
            cells=tuple(sorted(group, key=lambda cell: cell.result.config.seed)),
        )
        for (label, _, _), group in members.items()
    )


@dataclass(frozen=True, eq=False)
class Study:
    """Everything that figures and text are made from."""

    name: str
    title: str
    question: str
    cells: tuple[CellSummary, ...]
    groups: tuple[Group, ...]
    source: FloatArray | None  # (tasks, episodes), normalised
    n_rosters: int  # sets of tasks and episodes among the done cells; above 1 nothing is compared
    reference_label: str | None = None  # of the group that others are compared with, beside the best AD
    trimmed: str = ""  # what was left out so that unequal cells could be compared

    @cached_property
    def scored(self) -> tuple[Group, ...]:
        """Groups with at least one done seed."""
        return tuple(group for group in self.groups if group.score is not None)

    @property
    def comparable(self) -> bool:
        """Whether all done cells were measured on the same tasks and episodes."""
        return self.n_rosters == 1

    def best(self, ad: bool) -> Group | None:
        """Highest score among AD or the other models, of those with the most seeds; None if none is done.

        Arms may have seeds of their own: what was looked at with one seed is no headline beside what
        was measured with three.
        """
        scored = [group for group in self.scored if group.is_ad == ad]
        most = max((len(group.cells) for group in scored), default=0)
        candidates = [group for group in scored if len(group.cells) == most]
        return max(candidates, key=lambda group: group.score or 0.0, default=None)

    def featured(self, most: int) -> tuple[Group, ...]:
        """The references and the best other models, at most ``most``, in the report's order."""
        best = sorted(self.scored, key=lambda group: (group not in self.references, -(group.score or 0.0)))
        return tuple(group for group in self.scored if group in best[:most])

    @property
    def references(self) -> tuple[Group, ...]:
        """Groups that others are compared with: the best AD, and the chosen one where it has a result."""
        best = self.best(ad=True)
        chosen = [group for group in self.scored if group.label == self.reference_label]
        return tuple(dict.fromkeys([*([best] if best is not None else []), *chosen]))

    @property
    def task_kind(self) -> str:
        """How the evaluated tasks are called: ``held-out``, unless all of them are validation tasks."""
        kinds = {cell.result.config.evaluation.tasks for cell in self.cells}
        return "validation" if kinds == {"validation"} else "held-out"

    @property
    def reference_config(self) -> Config | None:
        """Config of the first cell, for the words that all cells share."""
        return self.cells[0].result.config if self.cells else None


def make_study(
    name: str,
    title: str,
    question: str,
    results: Sequence[CellResult],
    source: SourceCurve | None,
    *,
    reference: str | None = None,
    unequal: Unequal = "apart",
) -> Study:
    """Aggregate cells; ``reference`` is the label of a group to compare with, beside the best AD.

    Cells that were evaluated on unequal tasks or numbers of episodes are not compared ("apart"), refused,
    or cut to what they share.  Raises :class:`CadError` on a cell given twice, on cells that are refused or
    share no task, and :class:`UsageError` on a reference that is not there.
    """
    labels = dict.fromkeys(result.label for result in results)
    if reference is not None and reference not in labels:
        raise UsageError(
            f"reference {reference!r} (--reference or report.reference) is no model of {name}; "
            f"choose one of: {'; '.join(labels)}"
        )
    cells, trimmed = tuple(summarise_cell(result) for result in results), ""
    n_rosters = len({roster for cell in cells if (roster := roster_of(cell)) is not None})
    if n_rosters > 1 and unequal == "refuse":
        raise CadError(
            f"the cells of {name} were evaluated on {n_rosters} different sets of tasks or numbers of "
            "episodes, so their means do not compare; --allow-unequal compares them on what they share"
        )
    if unequal == "cut":
        cells, trimmed = cut_to_shared(cells)
    optimum = {task.task_id: task.optimum for cell in cells for task in cell.per_task}
    normalised = None
    if source is not None:
        known = [i for i, task_id in enumerate(source.task_ids) if task_id in optimum]
        curve = np.asarray(source.returns, dtype=np.float64)[known]
        if known and np.isfinite(curve).all():
            normalised = curve / np.array([optimum[source.task_ids[i]] for i in known])[:, None]
    return Study(
        name=name,
        title=title or name,
        question=question,
        cells=cells,
        groups=group_cells(cells),
        source=normalised,
        n_rosters=len({roster for cell in cells if (roster := roster_of(cell)) is not None}),
        reference_label=reference,
        trimmed=trimmed,
    )


@dataclass(frozen=True)
class Panel:
    """One depth x latents grid: groups that share everything else."""

    title: str
    spots: dict[tuple[int, int], Group]  # (depth, latents)

    @property
    def depths(self) -> list[int]:
        """Depths that occur, rising."""
        return sorted({depth for depth, _ in self.spots})

    @property
    def latents(self) -> list[int]:
        """Latent counts that occur, rising."""
        return sorted({n_latent for _, n_latent in self.spots})


def flatten(config: Config) -> dict[str, Any]:
    """Dotted keys and values of a config."""
    flat: dict[str, Any] = {}
    for key, value in config.model_dump(mode="json").items():
        if isinstance(value, dict):
            flat.update({f"{key}.{inner}": item for inner, item in value.items()})
        else:
            flat[key] = value
    return flat


def differing_keys(configs: Sequence[Config]) -> list[str]:
    """Dotted keys with more than one value among the configs, in the schema's order."""
    flats = [flatten(config) for config in configs]
    return [key for key in flats[0] if len({repr(flat[key]) for flat in flats}) > 1] if flats else []


def grid_panels(study: Study) -> list[Panel]:
    """Depth x latents grids; a second setting of one spot opens a further panel."""
    axes = ("model.max_compression_depth", "model.n_latent", "train.depth_weights")
    panels: list[tuple[tuple[str, str], Config, Panel]] = []
    for group in study.groups:
        if group.depth is None or group.n_latent is None:
            continue
        rest = repr([(key, value) for key, value in flatten(group.config).items() if key not in axes])
        spot = (group.depth, group.n_latent)
        for key, _, panel in panels:
            if key == (group.arm, rest) and spot not in panel.spots:
                panel.spots[spot] = group
                break
        else:
            panels.append(((group.arm, rest), group.config, Panel(group.arm, {spot: group})))
    named = []
    for (arm, _), config, panel in panels:  # the arm's name does, unless it has several panels
        differ = differing_keys([other for (its_arm, _), other, _ in panels if its_arm == arm])
        values = (f"{key}={flatten(config)[key]}" for key in differ if key not in axes)
        named.append(Panel(", ".join([panel.title, *values]), panel.spots))
    return named
